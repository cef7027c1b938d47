// The page: a picture from the camera, a file or a sample; the box on it; the bars beside it.

import { around, draggable, inside, middle, sideOf, whole } from "./box.js";
import { loadModel } from "./model.js";
import { imageOf } from "./pixels.js";

const SAMPLES = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"];
const LARGEST_SIDE = 4096; // larger pictures are scaled down: some phones have no larger canvas
const SPOKEN_EVERY = 2000; // milliseconds between announcements of what the camera shows

const element = (id) => document.getElementById(id);
const picture = element("picture");
const context = picture.getContext("2d", { willReadFrequently: true });

let model; // see model.js
let detect; // see detector.js; undefined if the bundle has no detector, or it could not be loaded
let box; // undefined until there is a picture
let seeking = false; // whether the next reading detects first
let stream; // the camera's, while it runs
let change = 0; // counts new pictures and boxes placed by hand

// ---- reading: detect, cut out, ask the model, show ------------------------------------------------

let running = false;
let again = false;

// Readings never overlap: one asked for during another follows it, once.
async function read() {
  again = true;
  if (running) return;
  running = true;
  try {
    while (again) {
      again = false;
      await readOnce();
    }
  } catch (error) {
    problem(`The picture could not be read: ${error.message}`);
  } finally {
    running = false;
  }
}

// What is found in a picture that has been replaced meanwhile, or whose box has been moved, is not shown: whoever
// did it has asked for another reading.
async function readOnce() {
  const start = performance.now();
  const asked = change;
  const sought = seeking;
  let note = "";
  if (sought) {
    seeking = false;
    const found = await detect(picture);
    if (asked !== change) return;
    if (found.length === 0) {
      showBox(true);
      showNothing(`No ${task().thing} found. Move the box over one by hand.`);
      return;
    }
    box = around(found[0], picture, model.info.crop.margin);
    if (found.length > 1) note = `${found.length} ${task().things}; the largest is read.`;
  }
  showBox(false);
  const detected = performance.now();
  const pixels = imageOf(context, box, model.info.image);
  const probabilities = await model.predict(pixels);
  if (asked !== change) return;
  showSeen(pixels);
  showProbabilities(probabilities, note);
  const end = performance.now();
  showSpeed(sought ? detected - start : undefined, end - detected, end);
}

// ---- showing ------------------------------------------------------------------------------------------------

function task() {
  return model.info.task;
}

function capital(word) {
  return word.charAt(0).toUpperCase() + word.slice(1);
}

function showTask() {
  const { thing, things, label, labels, detector } = task();
  document.title = `ferdistill: ${labels} in the browser`;
  document.querySelector("h1").textContent = capital(labels);
  element("result-title").textContent = capital(label);
  element("seen").ariaLabel = `The ${thing} as the model sees it`;
  element("notice").textContent = model.info.use?.notice ?? "";
  element("note").textContent = `Scores hold for ${things} like those of the test split.`;
  if (detector === "faces") showFaces();
}

// What only a bundle of faces has: samples, and the box that finds its face.
function showFaces() {
  const { samples, finding } = element("faces").content.cloneNode(true).children;
  element("hint").textContent = "Drop a picture here, choose one, click a sample, or start the camera.";
  element("placing").before(samples);
  element("placing").querySelector("legend").after(finding);
  element("note").prepend("An expression is not an emotion: do not judge a person by it. ");
  for (const name of SAMPLES) {
    const button = create("button");
    button.type = "button";
    button.dataset.sample = name;
    const image = create("img");
    image.src = `samples/${name}.png`;
    image.alt = "";
    button.append(image, name);
    button.addEventListener("click", async () => {
      const response = await fetch(image.src);
      if (response.ok) takeFile(await response.blob(), `Drawn face, ${name}`, true);
      else problem(`The sample cannot be read (HTTP ${response.status}). Is the server still running?`);
    });
    samples.querySelector("div").append(button);
  }
  element("automatic").addEventListener("change", ({ target }) => {
    seeking = target.checked;
    if (box && !stream) read();
  });
}

function seeks() {
  return element("automatic")?.checked ?? false;
}

function showFacts() {
  const { info } = model;
  const facts = {
    Family: info.run_family,
    Mode: info.run_mode,
    Network: `${info.architecture}, seed ${info.seed}`,
    "T*": info.t_star?.toPrecision(4),
    Classes: info.classes.join(", "),
    Input: `${info.image.size} × ${info.image.size}, ${info.image.channels === 1 ? "grey" : "RGB"}`,
    "Macro F1": info.test && `${info.test.macro_f1.toFixed(3)} on ${info.test.n} test images`,
    Threshold: threshold() === undefined ? "none in the bundle: it never abstains" : threshold().toFixed(3),
    "SHA-256": `${model.sha256.slice(0, 16)}…`,
  };
  for (const [name, value] of Object.entries(facts)) {
    if (value !== undefined) element("facts").append(create("dt", name), create("dd", value));
  }
  const rows = info.classes.map((name) => {
    const row = create("tr");
    const track = create("div");
    track.className = "track";
    track.ariaHidden = "true";
    const fill = create("div");
    fill.className = "fill";
    track.append(fill);
    if (threshold() !== undefined) {
      const mark = create("div");
      mark.className = "threshold";
      mark.style.left = `${100 * threshold()}%`;
      track.append(mark);
    }
    const head = create("th", name);
    head.scope = "row";
    const bar = create("td");
    bar.append(track);
    row.append(head, bar, create("td", "–"));
    return row;
  });
  element("bars").tBodies[0].append(...rows);
}

function threshold() {
  return model.info.thresholds?.confidence;
}

// The classes that are not ruled out, as `ferdistill predict` gives them; undefined where the bundle has no sets.
function setOf(probabilities) {
  const { sets, classes } = model.info;
  if (!sets) return undefined;
  let before = 0;
  const held = new Set();
  for (const i of [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a])) {
    const score = sets.method === "lac" ? 1 - probabilities[i] : before;
    if (score <= (sets.limits[classes[i]] ?? Infinity) + 1e-5) held.add(classes[i]);
    before += probabilities[i];
  }
  return classes.filter((name) => held.has(name));
}

function showProbabilities(probabilities, note) {
  const top = probabilities.indexOf(Math.max(...probabilities));
  for (const [i, row] of [...element("bars").rows].entries()) {
    row.className = i === top ? "top" : "";
    row.querySelector(".fill").style.width = `${100 * probabilities[i]}%`;
    row.lastChild.textContent = `${(100 * probabilities[i]).toFixed(1)} %`;
    row.lastChild.dataset.probability = probabilities[i];
  }
  const name = model.info.classes[top];
  const percent = `${(100 * probabilities[top]).toFixed(0)} %`;
  const abstains = probabilities[top] < threshold(); // false where there is no threshold
  const verdict = element("verdict");
  verdict.className = abstains ? "abstains" : "";
  verdict.replaceChildren(create("strong", abstains ? "Abstains" : name), " ");
  verdict.append(abstains ? `${name} is likeliest, but at ${percent} below the threshold. ` : `${percent}. `);
  const set = setOf(probabilities);
  if (set) verdict.append(`Not ruled out, at ${100 * model.info.sets.coverage} %: ${set.join(", ") || "none"}. `);
  verdict.append(note);
  speak(abstains ? "Abstains" : name, verdict.textContent);
}

function showNothing(message) {
  for (const row of element("bars").rows) {
    row.className = "";
    row.querySelector(".fill").style.width = "0";
    row.lastChild.textContent = "–";
    delete row.lastChild.dataset.probability;
  }
  element("verdict").className = "";
  element("verdict").textContent = message;
  element("seen").getContext("2d").reset();
  speak(message, message);
}

let spoken = { what: "", at: -SPOKEN_EVERY };

// For screen readers: changes alone, and not every frame of them.
function speak(what, sentence) {
  const now = performance.now();
  if (stream && (what === spoken.what || now - spoken.at < SPOKEN_EVERY)) return;
  spoken = { what, at: now };
  element("spoken").textContent = sentence;
}

function showBox(lost) {
  element("box").hidden = false;
  element("box").classList.toggle("lost", lost);
  const { style } = element("box");
  style.left = `${(100 * box.left) / picture.width}%`;
  style.top = `${(100 * box.top) / picture.height}%`;
  style.width = `${(100 * box.width) / picture.width}%`;
  style.height = `${(100 * box.height) / picture.height}%`;
  const side = sideOf(box);
  const largest = sideOf(picture);
  for (const [name, value, min, max] of [
    ["left", box.left, 0, picture.width - side],
    ["top", box.top, 0, picture.height - side],
    ["side", side, Math.min(8, largest), largest],
  ]) {
    Object.assign(element(name), { min, max, value });
  }
}

function showSeen(pixels) {
  const { size, channels } = model.info.image;
  const seen = element("seen");
  seen.width = seen.height = size;
  const image = new ImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[channels === 1 ? i : 3 * i + c];
    image.data[4 * i + 3] = 255;
  }
  seen.getContext("2d").putImageData(image, 0, 0);
}

let ends = []; // of the last second's readings

function showSpeed(detecting, predicting, end) {
  ends = [...ends.filter((time) => end - time < 1000), end];
  const parts = [`model ${predicting.toFixed(1)} ms`];
  if (detecting !== undefined) parts.unshift(`detector ${detecting.toFixed(1)} ms`);
  if (stream) parts.unshift(`${ends.length} FPS`);
  element("speed").replaceChildren(...parts.flatMap((part) => [create("span", part), " "]));
}

function problem(message) {
  element("problem").textContent = message;
  element("problem").hidden = !message;
}

function create(tag, text = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

// ---- pictures -----------------------------------------------------------------------------------------------

/** Put a picture on the canvas; the box starts as all of it, or as its middle where a detector looks for another. */
function take(source, width, height, name) {
  change++;
  const scale = Math.min(1, LARGEST_SIDE / Math.max(width, height));
  const [w, h] = [Math.max(Math.round(width * scale), 1), Math.max(Math.round(height * scale), 1)];
  if (picture.width !== w || picture.height !== h || !box) {
    picture.width = w; // also clears
    picture.height = h;
    element("stage").style.setProperty("--ratio", w / h);
    box = task().detector ? middle(picture) : whole(picture);
  }
  context.drawImage(source, 0, 0, w, h);
  picture.ariaLabel = name;
  element("hint").hidden = true;
  for (const id of ["left", "top", "side"]) element(id).disabled = false;
}

/** Read a file: dropped, chosen or a sample, which is `cropped` already. */
async function takeFile(file, name, cropped = false) {
  problem("");
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    problem(`${name} is not a picture that this browser reads. Choose a PNG, JPEG or WebP file.`);
    return;
  }
  stopCamera();
  box = undefined;
  take(image, image.width, image.height, name);
  image.close();
  seeking = !cropped && seeks();
  await read();
}

const CAMERA_PROBLEMS = {
  NotAllowedError: "The browser may not use the camera. Allow it for this page, then start again.",
  NotFoundError: "No camera found. Connect one, or choose a picture.",
  NotReadableError: "The camera is in use by another program.",
};

async function startCamera() {
  problem("");
  element("camera").disabled = true;
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480, facingMode: "user" } });
    video.srcObject = stream;
    await video.play();
  } catch (error) {
    stopCamera();
    problem(CAMERA_PROBLEMS[error.name] ?? `The camera does not start: ${error.message}`);
    return;
  } finally {
    element("camera").disabled = false;
  }
  element("camera").textContent = "Stop camera";
  stream.getVideoTracks()[0].addEventListener("ended", () => {
    stopCamera();
    problem("The camera went away. Connect it, then start again.");
  });
  const mine = stream;
  ends = [];
  box = undefined;
  // One frame at a time: those that come during a reading are never looked at.
  while (stream === mine) {
    take(video, video.videoWidth, video.videoHeight, "Camera");
    seeking = seeks();
    await read();
    await new Promise((next) =>
      video.requestVideoFrameCallback ? video.requestVideoFrameCallback(next) : requestAnimationFrame(next),
    );
  }
}

function stopCamera() {
  if (!stream) return;
  for (const track of stream.getTracks()) track.stop();
  stream = undefined;
  element("camera").textContent = "Start camera";
}

// ---- controls -----------------------------------------------------------------------------------------------

function place(next) {
  change++;
  if (element("automatic")) element("automatic").checked = false;
  seeking = false;
  box = next;
  read();
}

function connect() {
  element("camera").addEventListener("click", () => (stream ? stopCamera() : startCamera()));
  element("file").addEventListener("change", ({ target }) => {
    const [file] = target.files;
    if (file) takeFile(file, file.name);
    target.value = ""; // so that the same file can be chosen again
  });
  const stage = element("stage");
  for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
    // On the whole document: a picture dropped beside the stage would replace the page.
    document.addEventListener(type, (event) => {
      event.preventDefault();
      stage.classList.toggle("over", type === "dragenter" || type === "dragover");
    });
  }
  document.addEventListener("drop", ({ dataTransfer }) => {
    const [file] = dataTransfer.files;
    if (file) takeFile(file, file.name);
    else problem("That was not a file. Drop a picture from your disk.");
  });
  for (const name of ["left", "top", "side"]) {
    element(name).addEventListener("input", ({ target }) =>
      place(inside({ ...box, side: sideOf(box), [name]: target.valueAsNumber }, picture)),
    );
  }
  draggable(element("box"), picture, () => box, place);
}

async function start() {
  connect();
  try {
    model = await loadModel();
  } catch (error) {
    element("verdict").textContent = "No model.";
    problem(error.message);
    return;
  }
  showTask();
  showFacts();
  showNothing("No picture yet.");
  element("seen").getContext("2d").reset();
  for (const id of ["camera", "file"]) element(id).disabled = false;
  if (task().detector === "faces") await findFaces();
  document.body.dataset.ready = "";
}

async function findFaces() {
  try {
    detect = await (await import("./detector.js")).loadDetector();
    element("automatic").disabled = false;
    element("automatic").checked = true;
    element("detector").textContent = "MediaPipe's full-range detector, in the page";
  } catch (error) {
    element("detector").textContent = `not available here (${error.message}): place the box by hand`;
  }
}

start();
