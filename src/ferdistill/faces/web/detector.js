// Faces in a picture: MediaPipe's full-range detector, run by ONNX Runtime and read as `ferdistill.faces.detector` does.

import * as ort from "./vendor/ort.wasm.min.mjs";

const SIDE = 192; // pixels of the square that the network takes
const STRIDE = 4; // between its anchors
const VALUES = 16; // of a find: middle, size, and points
const LEAST = 0.5; // probability of a find
const OVERLAP = 0.3; // finds of a larger intersection over union are one face

/**
 * @returns {Promise<(picture: HTMLCanvasElement) => Promise<{left: number, top: number, width: number,
 *   height: number}[]>>} A function that gives the faces of a picture, the largest first, in its pixels.
 */
export async function loadDetector() {
  const session = await ort.InferenceSession.create("vendor/full_range.onnx", { executionProviders: ["wasm"] });
  const square = document.createElement("canvas");
  square.width = square.height = SIDE;
  const context = square.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  const detect = async (picture) => {
    const scale = SIDE / Math.max(picture.width, picture.height);
    const left = (SIDE - scale * picture.width) / 2;
    const top = (SIDE - scale * picture.height) / 2;
    context.fillRect(0, 0, SIDE, SIDE);
    context.drawImage(picture, left, top, scale * picture.width, scale * picture.height);
    const images = new ort.Tensor("float32", planes(context.getImageData(0, 0, SIDE, SIDE).data), [1, 3, SIDE, SIDE]);
    const { boxes, scores } = await session.run({ images }, ["boxes", "scores"]);
    const faces = [];
    for (const place of surest(scores.data)) {
      const face = faceAt(place, boxes.data.subarray(VALUES * place), { left, top, scale });
      if (faces.every((other) => overlap(face, other) < OVERLAP)) faces.push(face);
    }
    return faces.sort((a, b) => b.width * b.height - a.width * a.height);
  };
  await detect(square); // the first run allocates
  return detect;
}

/** Red, green and blue one after the other, from -1 to 1. */
function planes(rgba) {
  const count = rgba.length / 4;
  const values = new Float32Array(3 * count);
  for (let i = 0; i < count; i++) {
    for (let channel = 0; channel < 3; channel++) values[channel * count + i] = rgba[4 * i + channel] / 127.5 - 1;
  }
  return values;
}

/** The places of likely finds, the likeliest first. */
function surest(logits) {
  const least = Math.log(LEAST / (1 - LEAST));
  return [...logits.keys()].filter((place) => logits[place] >= least).sort((a, b) => logits[b] - logits[a]);
}

/** The square box of a find: offsets from its anchor, of its middle, and its size. */
function faceAt(place, [x, y, width, height], { left, top, scale }) {
  const row = SIDE / STRIDE;
  const side = Math.max(width, height) / scale;
  const across = (x + STRIDE * ((place % row) + 0.5) - left) / scale;
  const down = (y + STRIDE * (Math.floor(place / row) + 0.5) - top) / scale;
  return { left: across - side / 2, top: down - side / 2, width: side, height: side };
}

function overlap(a, b) {
  const across = Math.min(a.left + a.width, b.left + b.width) - Math.max(a.left, b.left);
  const down = Math.min(a.top + a.height, b.top + b.height) - Math.max(a.top, b.top);
  if (across <= 0 || down <= 0) return 0;
  return (across * down) / (a.width * a.height + b.width * b.height - across * down);
}
