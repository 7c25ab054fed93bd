// Mouse, touch and keys on the picture. `act` offers rotate, move, zoom, along, reset and choose.

const STEP = 5; // degrees of an arrow key
const ZOOM_STEP = 1.15;

/** Place of an event from the middle of the canvas, in CSS pixels, y up. */
function place(canvas, event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left - box.width / 2, box.top + box.height / 2 - event.clientY];
}

function listenToPointers(canvas, act) {
  const down = new Map();
  let moves = false;

  function drag(from, to) {
    const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
    if (moves) return act.move(dx, dy);
    // The shorter side is half a turn; what lies in front follows the pointer.
    const degrees = 180 / Math.min(canvas.clientWidth, canvas.clientHeight);
    act.rotate([-dy * degrees, dx * degrees, 0]);
  }

  /** Two fingers: zoom, turn in the plane and move, all about their middle. */
  function pinch(before, after) {
    const [a, b] = [before, after].map(([p, q]) => ({
      middle: [(p[0] + q[0]) / 2, (p[1] + q[1]) / 2],
      length: Math.max(1, Math.hypot(q[0] - p[0], q[1] - p[1])),
      angle: Math.atan2(q[1] - p[1], q[0] - p[0]) / RADIAN,
    }));
    act.move(b.middle[0] - a.middle[0], b.middle[1] - a.middle[1]);
    act.zoom(a.length / b.length, b.middle);
    act.rotate([0, 0, ((b.angle - a.angle + 540) % 360) - 180]);
  }

  canvas.addEventListener("pointerdown", (event) => {
    moves = event.shiftKey || event.button > 0;
    down.set(event.pointerId, place(canvas, event));
  });
  // On the window: a drag may leave the canvas.
  window.addEventListener("pointermove", (event) => {
    if (!down.has(event.pointerId)) return;
    const before = [...down.values()];
    down.set(event.pointerId, place(canvas, event));
    const after = [...down.values()];
    if (after.length === 1) drag(before[0], after[0]);
    if (after.length === 2) pinch(before, after);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    window.addEventListener(end, (event) => down.delete(event.pointerId));
  }
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => scroll(canvas, event, act), { passive: false });
}

function scroll(canvas, event, act) {
  event.preventDefault();
  const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
  // A pinch on a trackpad arrives as small scrolls with the control key.
  act.zoom(Math.exp(pixels * (event.ctrlKey ? 0.01 : 0.0015)), place(canvas, event));
}

function listenToKeys(canvas, act) {
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (!pressed(event)) return;
    event.preventDefault();
  });

  function pressed({ key, shiftKey }) {
    const arrow = arrows[key];
    if (arrow && shiftKey) act.move(20 * arrow[0], 20 * arrow[1]);
    else if (arrow) act.rotate([-STEP * arrow[1], STEP * arrow[0], 0]);
    else if (key === "+" || key === "=") act.zoom(1 / ZOOM_STEP, [0, 0]);
    else if (key === "-") act.zoom(ZOOM_STEP, [0, 0]);
    else if (key === "[" || key === "]") act.rotate([0, 0, key === "[" ? STEP : -STEP]);
    else if (key.toLowerCase() in ALONG) act.along(key.toLowerCase());
    else if (key === "0") act.reset();
    else if (/^[1-9]$/.test(key)) act.choose(Number(key) - 1);
    else return false;
    return true;
  }
}
