// What lies over the picture: scale bar, axes; and the measured tilt beside it.

const COLOURS = ["#ff6b6b", "#5fd38d", "#6aa8ff"];

/** Length in A with one leading digit of 1, 2 or 5 that fits into `longest`. */
function roundLength(longest) {
  const decade = 10 ** Math.floor(Math.log10(longest));
  return decade * (longest >= 5 * decade ? 5 : longest >= 2 * decade ? 2 : 1);
}

/** Three digits, without trailing zeros. */
const plain = (value) => String(Number(value.toPrecision(3)));

/** A up to 100, then nm, then micrometres. */
function lengthText(angstrom) {
  if (Math.abs(angstrom) < 100) return `${plain(angstrom)} Å`;
  return Math.abs(angstrom) < 10000 ? `${plain(angstrom / 10)} nm` : `${plain(angstrom / 10000)} µm`;
}

function drawScaleBar(bar, label, pixelSize, width) {
  const length = roundLength(pixelSize * Math.min(200, width / 3));
  bar.style.width = `${length / pixelSize}px`;
  label.textContent = lengthText(length);
  bar.setAttribute("aria-label", `Scale bar: ${label.textContent}`);
  return { pixels: length / pixelSize, text: label.textContent };
}

function drawAxes(svg, rotation) {
  const parts = ["x", "y", "z"].map((name, j) => {
    const [x, y] = [rotation[0][j], -rotation[1][j]];
    const near = 0.7 + 0.3 * rotation[2][j]; // axes that point away are fainter
    const line = make("line", { x1: 36, y1: 36, x2: 36 + 22 * x, y2: 36 + 22 * y, stroke: COLOURS[j], opacity: near });
    const text = make("text", { x: 36 + 30 * x, y: 36 + 30 * y, fill: COLOURS[j], opacity: near });
    text.textContent = name;
    return [rotation[2][j], line, text];
  });
  parts.sort((a, b) => a[0] - b[0]);
  svg.replaceChildren(...parts.flatMap(([, line, text]) => [line, text]));
}

function make(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** The measured images as canvases, decoded when first shown; larger values brighter, row 0 at the bottom. */
function measuredImages(series) {
  const made = new Map();
  return (index, inverted) => {
    const key = 2 * index + Number(inverted);
    if (!made.has(key)) made.set(key, imageCanvas(decode(series.images[index]), series, inverted));
    return made.get(key);
  };
}

function imageCanvas(bytes, { width, height }, inverted) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pixels = new ImageData(width, height);
  const grey = new Uint32Array(pixels.data.buffer);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = bytes[(height - 1 - y) * width + x];
      grey[y * width + x] = 0xff000000 | (0x010101 * (inverted ? 255 - value : value));
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/**
 * Draw a measured image at the place and size of the projection beside it.
 *
 * @param image canvas of it
 * @param origin its pixel (x, y) at which the volume's centre appears
 * @param imagePixel A per pixel of it
 * @param pan, pixelSize as the projection's; A per pixel of the canvas
 */
function drawMeasured(canvas, image, origin, imagePixel, pan, pixelSize, inverted) {
  const context = canvas.getContext("2d");
  const zoom = imagePixel / pixelSize;
  context.fillStyle = inverted ? "#fff" : "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  // Pixel centres are integers in taigs and half-integers on a canvas, whose y points down.
  const left = canvas.width / 2 + pan[0] / pixelSize - (origin[0] + 0.5) * zoom;
  const bottom = canvas.height / 2 - pan[1] / pixelSize + (origin[1] + 0.5) * zoom;
  context.drawImage(image, left, bottom - image.height * zoom, image.width * zoom, image.height * zoom);
}
