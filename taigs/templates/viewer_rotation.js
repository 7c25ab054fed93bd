// Rotations volume -> image as three rows; the conventions are those of taigs/geometry.py.

const IDENTITY = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
// Seen along an axis, which points at the viewer; z upwards where it is not that axis.
const ALONG = { x: [[0, 1, 0], [0, 0, 1], [1, 0, 0]], y: [[-1, 0, 0], [0, 0, 1], [0, 1, 0]], z: IDENTITY };
const RADIAN = Math.PI / 180;

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => a.map((x) => x / Math.hypot(...a));

function multiply(a, b) {
  const columns = [0, 1, 2].map((j) => b.map((row) => row[j]));
  return a.map((row) => columns.map((column) => dot(row, column)));
}

/** Right-handed rotation about coordinate axis 0 x, 1 y or 2 z. */
function about(axis, degrees) {
  const [i, j] = [(axis + 1) % 3, (axis + 2) % 3];
  const matrix = IDENTITY.map((row) => [...row]);
  matrix[i][i] = matrix[j][j] = Math.cos(degrees * RADIAN);
  matrix[j][i] = Math.sin(degrees * RADIAN);
  matrix[i][j] = -matrix[j][i];
  return matrix;
}

function fromEuler(rot, tilt, psi) {
  return multiply(multiply(about(2, -psi), about(1, -tilt)), about(2, -rot));
}

/** [rot, tilt, psi] in degrees; rot is 0 where tilt leaves it undetermined. */
function toEuler(matrix) {
  const [x, y, z] = matrix[2];
  const sine = Math.hypot(x, y);
  const tilt = Math.atan2(sine, z) / RADIAN;
  const rot = sine > 1e-8 ? Math.atan2(y, x) / RADIAN : 0;
  const left = multiply(multiply(matrix, about(2, rot)), about(1, tilt));
  return [rot, tilt, Math.atan2(left[0][1], left[0][0]) / RADIAN];
}

/** The rotation, turned further by a vector in the image's frame (direction: axis, length: degrees). */
function turned(matrix, vector) {
  const angle = Math.hypot(...vector);
  if (!(angle > 0)) return matrix;
  const axis = unit(vector);
  const [c, s] = [Math.cos(angle * RADIAN), Math.sin(angle * RADIAN)];
  // Rodrigues, column by column.
  const columns = IDENTITY.map((_, j) => {
    const column = matrix.map((row) => row[j]);
    const [normal, along] = [cross(axis, column), dot(axis, column) * (1 - c)];
    return column.map((x, i) => x * c + normal[i] * s + axis[i] * along);
  });
  return orthonormal(IDENTITY.map((_, i) => columns.map((column) => column[i])));
}

/** Thousands of small turns would otherwise add up their rounding. */
function orthonormal(matrix) {
  const x = unit(matrix[0]);
  const overlap = dot(x, matrix[1]);
  const y = unit(matrix[1].map((value, i) => value - overlap * x[i]));
  return [x, y, cross(x, y)];
}
