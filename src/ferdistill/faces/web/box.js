// What of a picture is read, in its whole pixels: {left, top, width, height}. A square, unless it is the whole picture.

const SMALLEST = 8;

/** The whole picture. */
export function whole({ width, height }) {
  return { left: 0, top: 0, width, height };
}

/** The largest square in the middle of a picture. */
export function middle({ width, height }) {
  const side = Math.min(width, height);
  return { left: (width - side) >> 1, top: (height - side) >> 1, width: side, height: side };
}

/** The side of a box: of one that is not square, the shorter. */
export function sideOf({ width, height }) {
  return Math.min(width, height);
}

/** The nearest square that lies inside the picture. */
export function inside({ left, top, side }, { width, height }) {
  const fitting = Math.round(Math.min(Math.max(side, SMALLEST), width, height));
  const clamp = (value, size) => Math.round(Math.min(Math.max(value, 0), size - fitting));
  return { left: clamp(left, width), top: clamp(top, height), width: fitting, height: fitting };
}

/** The square around a detected face, wider on each side by `margin` of its own. */
export function around(face, picture, margin) {
  const side = Math.max(face.width, face.height) * (1 + 2 * margin);
  const left = face.left + (face.width - side) / 2;
  const top = face.top + (face.height - side) / 2;
  return inside({ left, top, side }, picture);
}

/**
 * Let a pointer move the box, or resize it by its handle.
 * @param {HTMLElement} element - The box on the page; its child `.handle` is the handle.
 * @param {HTMLCanvasElement} picture - What the box lies on.
 * @param {() => object} get - Gives the box as it is.
 * @param {(box: object) => void} set - Is told the box as it shall be.
 */
export function draggable(element, picture, get, set) {
  element.addEventListener("pointerdown", (down) => {
    down.preventDefault();
    element.setPointerCapture(down.pointerId);
    const { left, top, ...size } = get();
    const side = sideOf(size);
    const scale = picture.width / picture.getBoundingClientRect().width;
    const resizing = down.target.matches(".handle");
    const move = (event) => {
      const across = (event.clientX - down.clientX) * scale;
      const along = (event.clientY - down.clientY) * scale;
      const room = Math.min(picture.width - left, picture.height - top);
      const moved = resizing
        ? { left, top, side: Math.min(side + Math.max(across, along), room) }
        : { left: left + across, top: top + along, side };
      set(inside(moved, picture));
    };
    const end = new AbortController();
    element.addEventListener("pointermove", move, { signal: end.signal });
    for (const name of ["pointerup", "pointercancel"]) {
      element.addEventListener(name, () => end.abort(), { signal: end.signal });
    }
  });
}
