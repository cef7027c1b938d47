// A picture as the model takes it: the pixels that Pillow gives in Python, bit for bit. Canvas scaling would not do:
// how it smooths is each browser's own affair.

const PRECISION = 22; // bits after the point, as in Pillow's Resample.c

/**
 * Grey by ITU-R 601, as Pillow's convert("L").
 * @param {Uint8ClampedArray} rgba - Four values a pixel; alpha is dropped.
 * @returns {Uint8Array} One value a pixel.
 */
export function toGrey(rgba) {
  const grey = new Uint8Array(rgba.length / 4);
  for (let i = 0, j = 0; i < grey.length; i++, j += 4) {
    grey[i] = (19595 * rgba[j] + 38470 * rgba[j + 1] + 7471 * rgba[j + 2] + 0x8000) >> 16;
  }
  return grey;
}

/**
 * @param {Uint8ClampedArray} rgba - Four values a pixel; alpha is dropped.
 * @returns {Uint8Array} Three values a pixel.
 */
export function toRgb(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let i = 0, j = 0; i < rgb.length; i += 3, j += 4) {
    rgb[i] = rgba[j];
    rgb[i + 1] = rgba[j + 1];
    rgb[i + 2] = rgba[j + 2];
  }
  return rgb;
}

/**
 * Antialiased bilinear resize, as Pillow's resize((size, size), Resampling.BILINEAR).
 * @param {Uint8Array} pixels - height x width x channels.
 * @returns {Uint8Array} size x size x channels.
 */
export function resize(pixels, width, height, channels, size) {
  const across = width === size ? pixels : resample(pixels, height, width, size, channels, width * channels, channels);
  if (height === size) return across;
  // Columns next: the same pass, with the roles of the two strides exchanged.
  return resample(across, size, height, size, channels, channels, size * channels, true);
}

// Resample each of `lines` lines from `from` to `to` pixels. `lineStride` and `pixelStride` say where they lie in
// `pixels`; in the result the lines are rows, or columns if `columns`.
function resample(pixels, lines, from, to, channels, lineStride, pixelStride, columns = false) {
  const result = new Uint8Array(lines * to * channels);
  const [lineOut, pixelOut] = columns ? [channels, lines * channels] : [to * channels, channels];
  for (const [target, { first, weights }] of windows(from, to).entries()) {
    for (let line = 0; line < lines; line++) {
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (PRECISION - 1);
        let at = line * lineStride + first * pixelStride + channel;
        for (const weight of weights) {
          sum += weight * pixels[at];
          at += pixelStride;
        }
        result[line * lineOut + target * pixelOut + channel] = Math.min(Math.max(sum >> PRECISION, 0), 255);
      }
    }
  }
  return result;
}

// For each pixel of the result, the pixels under its triangle and their fixed-point weights.
function windows(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, target) => {
    const centre = (target + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), from);
    const weights = Array.from({ length: end - first }, (_, i) =>
      Math.max(1 - Math.abs((i + first - centre + 0.5) * (1 / support)), 0),
    );
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: weights.map((weight) => Math.trunc(0.5 + (weight / total) * 2 ** PRECISION)) };
  });
}

/**
 * What the box marks, as one image for the model; what is not square is squeezed, as in training.
 * @param {CanvasRenderingContext2D} context - Of the picture.
 * @param {{left: number, top: number, width: number, height: number}} box - In whole pixels, inside the picture.
 * @param {{size: number, channels: number}} image - As bundle.json says.
 * @returns {Uint8Array} size x size x channels.
 */
export function imageOf(context, { left, top, width, height }, { size, channels }) {
  const rgba = context.getImageData(left, top, width, height).data;
  return resize(channels === 1 ? toGrey(rgba) : toRgb(rgba), width, height, channels, size);
}
