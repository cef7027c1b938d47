// The bundle in the browser: checked as `ferdistill.runtime.classifier` checks it, and run by ONNX Runtime.

import * as ort from "./vendor/ort.wasm.min.mjs";

const SCHEMA_VERSION = 2;
// As in the classifier: what a bundle that names no task classifies, what one that names no crop takes around what was
// found, and how far its probabilities may be from 1.
const TASK = { thing: "image", things: "images", label: "class", labels: "classes", detector: null };
const CROP = { margin: 0 };
const TOLERANCE = 1e-3;

/** A stop that the page shows as it stands. */
export class BundleError extends Error {}

/**
 * @typedef {object} Model
 * @property {object} info - What bundle.json holds, its `task` and `crop` filled up.
 * @property {string} sha256 - Of model.onnx, in hex.
 * @property {(pixels: Uint8Array) => Promise<Float32Array>} predict - Calibrated probabilities of one image,
 *   size x size x channels, in the order of `info.classes`.
 */

/**
 * @returns {Promise<Model>}
 * @throws {BundleError} If a file is missing, or the model is not the one that bundle.json describes.
 */
export async function loadModel() {
  const info = await (await get("bundle/bundle.json")).json();
  info.task = { ...TASK, ...info.task };
  info.crop = { ...CROP, ...info.crop };
  if (info.schema_version !== SCHEMA_VERSION) {
    throw new BundleError(
      `This bundle has schema version ${info.schema_version}, and the page reads ${SCHEMA_VERSION}. ` +
        "Use the release of ferdistill that wrote it, or export again.",
    );
  }
  const bytes = await (await get("bundle/model.onnx")).arrayBuffer();
  const sha256 = hex(await crypto.subtle.digest("SHA-256", bytes));
  const expected = info.files["model.onnx"];
  if (sha256 !== expected) {
    throw new BundleError(
      "The model is damaged, or belongs to another bundle: model.onnx has SHA-256 " +
        `${sha256.slice(0, 12)}…, and bundle.json says ${String(expected).slice(0, 12)}…. ` +
        "Copy the whole directory again, or run dvc repro.",
    );
  }
  const session = await ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: ["wasm"] });
  const { size, channels } = info.image;
  const predict = async (pixels) => {
    const images = new ort.Tensor("uint8", pixels, [1, size, size, channels]);
    const { data } = (await session.run({ images }, ["probabilities"])).probabilities;
    const sum = data.reduce((total, value) => total + value, 0);
    if (!(Math.min(...data) >= 0 && Math.abs(sum - 1) <= TOLERANCE)) {
      throw new BundleError("The model answers no probabilities. Train or export it again.");
    }
    return data;
  };
  await predict(new Uint8Array(size * size * channels)); // the first run allocates
  return { info, sha256, predict };
}

async function get(path) {
  const response = await fetch(path);
  if (!response.ok) throw new BundleError(`${path} cannot be read (HTTP ${response.status}): ${await response.text()}`);
  return response;
}

function hex(buffer) {
  return Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
