// Faces in a picture: MediaPipe's BlazeFace, run by @vladmandic/human with its WebAssembly backend.

import { Human } from "./vendor/human.esm.js";

const off = { enabled: false };
const human = new Human({
  backend: "wasm",
  wasmPath: "vendor/",
  modelBasePath: "vendor/",
  cacheModels: false,
  warmup: "none",
  cacheSensitivity: 0, // look at every picture, however like the last
  filter: off,
  gesture: off,
  body: off,
  hand: off,
  object: off,
  segmentation: off,
  face: {
    enabled: true,
    detector: { modelPath: "blazeface.json", rotation: false, maxDetected: 10, minConfidence: 0.5, skipFrames: 0 },
    mesh: off,
    attention: off,
    iris: off,
    emotion: off,
    description: off,
    antispoof: off,
    liveness: off,
  },
});

/**
 * @returns {Promise<(picture: HTMLCanvasElement) => Promise<{left: number, top: number, width: number,
 *   height: number}[]>>} A function that gives the faces of a picture, the largest first, in its pixels.
 */
export async function loadDetector() {
  // Its threads would start from a blob: URL, which the content security policy forbids.
  human.tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);
  await human.load();
  return async (picture) => {
    const result = await human.detect(picture);
    if (result.error) throw new Error(result.error);
    return result.face
      .map(({ box: [left, top, width, height] }) => ({ left, top, width, height }))
      .sort((a, b) => b.width * b.height - a.width * a.height);
  };
}
