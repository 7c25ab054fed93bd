// The page: what is seen, the controls, and when to draw.

const byId = (id) => document.getElementById(id);
const { title, models, series, half, radius, density, sigma } = JSON.parse(byId("data").textContent);
const canvas = byId("view");
const SLOW_FRAME = 33; // ms: drawn coarser while moving if frames take longer
const COARSEST = 0.15; // of the full resolution
const SETTLED = 180; // ms without a change until the full resolution and the contrast are due
const MEASURE_SIZE = 192; // pixels of the image that the contrast is taken from
const AUTO_RANGE = [0.005, 0.998]; // of the sorted values

const seen = {
  model: 0, rotation: IDENTITY, pan: [0, 0], pixelSize: 1, fitted: true,
  sliced: false, thickness: radius / 5, depth: 0,
  spread: false, sigma,
  auto: true, inverted: false, black: 0, white: 1, bounds: [0, 1],
  measured: null, // index of the measured tilt whose direction was last chosen
};
let renderer = null;
let pending = 0, timer = 0; // of the next frame, and of the last one of a movement
let moving = false, lastFrame = 0, elapsed = 0, scale = 1;

// --- drawing ---------------------------------------------------------------------------------

/** What the renderer draws, at `pixelSize` A per pixel of its target. */
function view(pixelSize, extraBlur = 0) {
  return {
    model: seen.model, rotation: seen.rotation, pan: seen.pan, pixelSize,
    blur: (seen.spread ? seen.sigma ** 2 : 0) + extraBlur,
    depth: seen.depth,
    halfThickness: seen.sliced ? seen.thickness / 2 : Infinity,
  };
}

/** Draw with the next frame, coarsely if need be, and properly once nothing changes any more. */
function changed({ contrast = true } = {}) {
  pending ||= requestAnimationFrame(drawMoving);
  clearTimeout(timer);
  timer = setTimeout(settle, Math.max(SETTLED, 2 * elapsed)); // slow frames are not the end of a movement
  settle.contrast ||= contrast;
}

function drawMoving(now) {
  pending = 0;
  if (moving) adapt(now - lastFrame);
  moving = true;
  lastFrame = now;
  draw(scale);
}

/** The time of a frame goes with the number of its pixels, the square of the scale. */
function adapt(milliseconds) {
  elapsed = milliseconds;
  if (elapsed > SLOW_FRAME) scale = Math.max(COARSEST, scale * Math.max(0.5, Math.sqrt(SLOW_FRAME / elapsed)));
  else if (elapsed < 0.6 * SLOW_FRAME) scale = Math.min(1, scale * 1.1);
}

function settle() {
  moving = false;
  elapsed = 0;
  if (settle.contrast) measureContrast();
  settle.contrast = false;
  draw(1);
}

function draw(resolution) {
  if (!renderer) return;
  const perPixel = (seen.pixelSize * canvas.clientWidth) / canvas.width;
  // Coarse pixels may miss narrow Gaussians: half a pixel of blur keeps their mass.
  const blur = resolution < 1 ? (0.5 * perPixel / resolution) ** 2 : 0;
  renderer.show(view(perPixel, blur), resolution, [seen.black, seen.white], seen.inverted);
  drawScaleBar(byId("scale"), byId("scale-label"), seen.pixelSize, canvas.clientWidth);
  drawAxes(byId("axes"), seen.rotation);
  showAngles();
  showMeasured();
}

/** The range of the sliders, and the window if it is automatic, from a small copy of the picture. */
function measureContrast() {
  if (!renderer || !canvas.clientWidth) return;
  const shrink = MEASURE_SIZE / Math.max(canvas.clientWidth, canvas.clientHeight);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((n) => Math.max(1, Math.round(n * shrink)));
  const pixelSize = seen.pixelSize / shrink;
  const values = renderer.read(view(pixelSize, (0.5 * pixelSize) ** 2), width, height).sort();
  const at = (part) => values[Math.round(part * (values.length - 1))];
  const top = at(1) > at(0) ? at(1) : at(0) + density;
  seen.bounds = [Math.min(0, at(0)), top];
  if (seen.auto) {
    seen.black = at(AUTO_RANGE[0]);
    seen.white = at(AUTO_RANGE[1]) > seen.black ? at(AUTO_RANGE[1]) : top;
  }
  showContrast();
}

/** The longest side of the model's box in the shorter one of the picture: it stays inside when turned.
 * Of a tilt series the measured image, since the slab beside it is only partly seen. */
function fit() {
  const shorter = Math.min(canvas.clientWidth, canvas.clientHeight);
  const longest = series?.images ? Math.max(series.width, series.height) * series.pixelSize : 2 * Math.max(...half);
  if (!shorter) return;
  seen.pan = [0, 0];
  seen.fitted = true;
  seen.pixelSize = (1.06 * longest) / shorter;
}

function resize() {
  const dots = Math.min(2, window.devicePixelRatio || 1);
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * dots));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * dots));
  if (seen.fitted) fit();
  measureContrast();
  draw(1);
}

// --- what can be done ------------------------------------------------------------------------

const act = {
  rotate(vector) {
    turnTo(turned(seen.rotation, vector));
  },
  move(dx, dy) {
    seen.pan = [seen.pan[0] + dx * seen.pixelSize, seen.pan[1] + dy * seen.pixelSize];
    seen.fitted = false;
    changed();
  },
  /** Zoom by a factor in A per pixel; the point at `at` stays where it is. */
  zoom(factor, at) {
    const old = seen.pixelSize;
    seen.pixelSize = Math.min(Math.max(old * factor, radius / 1e5), radius / 20);
    seen.pan = seen.pan.map((shift, i) => shift + at[i] * (seen.pixelSize - old));
    seen.fitted = false;
    changed();
  },
  along(axis) {
    turnTo(ALONG[axis]);
    fit();
  },
  reset() {
    Object.assign(seen, { sliced: false, spread: false, auto: true, inverted: false, depth: 0 });
    act.along("z");
    showControls();
  },
  choose(index) {
    if (index >= models.length) return;
    seen.model = index;
    showModel();
    changed({ contrast: false }); // models are compared in one window
  },
};

function turnTo(rotation, measured = null) {
  seen.rotation = rotation;
  seen.measured = measured;
  changed();
}

function say(text) {
  byId("status").textContent = text;
}

/** With the angles as RELION's star files hold them. */
async function copyAngles() {
  const text = anglesText();
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied: ${text}`);
  } catch {
    // Without permission for the clipboard the text can still be copied by hand.
    say(text);
    getSelection().selectAllChildren(byId("status"));
  }
}

const angles = () => toEuler(seen.rotation).map((angle) => (Math.abs(angle) < 0.005 ? 0 : angle).toFixed(2));
const anglesText = () => angles().map((angle, i) => `${["rot", "tilt", "psi"][i]} ${angle}°`).join(", ");

/** The picture with its scale bar. */
function savePicture() {
  draw(1);
  const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
  const context = copy.getContext("2d");
  context.drawImage(canvas, 0, 0);
  const dots = canvas.width / canvas.clientWidth;
  context.scale(dots, dots);
  const bar = drawScaleBar(byId("scale"), byId("scale-label"), seen.pixelSize, canvas.clientWidth);
  const bottom = canvas.clientHeight - 16;
  context.fillStyle = seen.inverted ? "#000" : "#fff";
  context.fillRect(16, bottom, bar.pixels, 4);
  context.font = "14px system-ui, sans-serif";
  context.textAlign = "center";
  context.fillText(bar.text, 16 + bar.pixels / 2, bottom - 7);
  copy.toBlob((blob) => download(blob, `${title}_${angles().join("_")}.png`.replace(/[^\w.-]+/g, "_")));
}

function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  say(`Saved ${name}`);
}

// --- start -----------------------------------------------------------------------------------

/** For tests and scripts: the same page, driven by calls. */
const scripting = {
  setRotation: (rot, tilt, psi) => turnTo(fromEuler(rot, tilt, psi)),
  getRotation: () => toEuler(seen.rotation),
  setPixelSize(angstrom) {
    Object.assign(seen, { pixelSize: angstrom, pan: [0, 0], fitted: false });
    changed();
  },
  setModel: (index) => act.choose(index),
  set(values) {
    Object.assign(seen, values);
    showControls();
    changed();
  },
  /** Mass on each pixel, as taigs.project computes it: row 0 is the bottom, the centre (n - 1) / 2. */
  readImage({ width = canvas.clientWidth, height = canvas.clientHeight, pixelSize = seen.pixelSize } = {}) {
    const data = renderer.read(view(pixelSize), width, height).map((value) => value * pixelSize ** 2);
    return { data, width, height, pixelSize, bits: renderer.bits };
  },
};

function start() {
  try {
    renderer = createRenderer(canvas, models, 1 / density);
  } catch (error) {
    byId("message").textContent = error.message;
    byId("message").hidden = false;
    for (const set of document.querySelectorAll("fieldset")) set.disabled = true;
    return;
  }
  byId("message").hidden = true;
  new ResizeObserver(resize).observe(canvas);
  resize();
  window.taigs = scripting;
}

canvas.addEventListener("webglcontextlost", (event) => {
  event.preventDefault();
  renderer = null;
});
canvas.addEventListener("webglcontextrestored", () => {
  renderer = createRenderer(canvas, models, 1 / density);
  changed();
});
setUpModels();
setUpDirection();
setUpSeries();
setUpContrast();
setUpSliceAndSpread();
listenToPointers(canvas, act);
listenToKeys(canvas, act);
showModel();
showControls();
start();
