// Drawing: Gaussians are added up in a float texture, which a second pass maps to grey.

const CUTOFF = 4.0; // sigmas, as in taigs.project
const COLUMNS = 10; // of a Gaussian: x y z, covariance xx xy xz yy yz zz, mass
const TEXELS = 3; // that hold them
const PER_ROW = 512; // Gaussians in a row of the texture
const BATCH = 256; // quads of one instance: one quad each would leave most of a GPU's lanes idle

const SPLAT_VERTEX = `#version 300 es
precision highp float;
uniform highp sampler2D cloud;       // x y z mass, xx xy xz yy, yz zz
uniform int count;
uniform vec3 axis_x, axis_y, axis_z; // rows of the rotation
uniform vec2 shift;                  // A
uniform vec2 pixels;
uniform float pixel_size;            // A
uniform float blur;                  // A^2
uniform vec2 slab;                   // depth and half the thickness, A
uniform float unit;
flat out vec2 mean;                  // pixels
flat out vec3 whiten;                // rows of L^-1 per pixel, with S2 = L L^T
flat out float peak;
void main() {
  int index = gl_InstanceID * ${BATCH} + (gl_VertexID >> 2);
  ivec2 texel = ivec2(${TEXELS} * (index % ${PER_ROW}), index / ${PER_ROW});
  vec4 first = texelFetch(cloud, texel, 0);
  vec4 second = texelFetch(cloud, texel + ivec2(1, 0), 0);
  vec2 third = texelFetch(cloud, texel + ivec2(2, 0), 0).xy;
  vec3 position = first.xyz;
  float mass = first.w;
  mat3 S = mat3(second.xyz, vec3(second.yw, third.x), vec3(second.z, third));
  vec3 S_x = S * axis_x;
  float xx = dot(axis_x, S_x) + blur;
  float xy = dot(axis_y, S_x);
  float yy = dot(axis_y, S * axis_y) + blur;
  // Cholesky: a c = |S2|^(1/2), and L maps the square of +-4 sigma onto the ellipse's footprint.
  float a = sqrt(xx);
  float b = xy / a;
  float c = sqrt(max(yy - b * b, 1e-6 * yy));
  peak = unit * mass / (6.283185307 * a * c);
  whiten = pixel_size * vec3(1.0 / a, -b / (a * c), 1.0 / c);
  mean = (vec2(dot(axis_x, position), dot(axis_y, position)) + shift) / pixel_size + 0.5 * pixels;
  vec2 corner = ${CUTOFF.toFixed(1)} * (2.0 * vec2(gl_VertexID & 1, (gl_VertexID >> 1) & 1) - 1.0);
  vec2 place = mean + vec2(a * corner.x, b * corner.x + c * corner.y) / pixel_size;
  bool outside = index >= count || abs(dot(axis_z, position) - slab.x) > slab.y;
  gl_Position = outside ? vec4(2.0, 2.0, 2.0, 1.0) : vec4(2.0 * place / pixels - 1.0, 0.0, 1.0);
}`;

// From the pixel's place: interpolated from the corners, which are snapped to a sixteenth of a pixel or so, it is off.
const SPLAT_FRAGMENT = `#version 300 es
precision highp float;
flat in vec2 mean;
flat in vec3 whiten;
flat in float peak;
out vec4 value;
void main() {
  vec2 d = gl_FragCoord.xy - mean;
  vec2 sigmas = vec2(whiten.x * d.x, whiten.y * d.x + whiten.z * d.y);
  value = vec4(peak * exp(-0.5 * dot(sigmas, sigmas)), 0.0, 0.0, 1.0);
}`;

const GREY_VERTEX = `#version 300 es
out vec2 place;
void main() {
  place = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0;
  gl_Position = vec4(2.0 * place - 1.0, 0.0, 1.0);
}`;

// Bilinear by hand: float textures may not have it.
const GREY_FRAGMENT = `#version 300 es
precision highp float;
uniform sampler2D sum;
uniform vec2 window; // black and white
uniform bool inverted;
in vec2 place;
out vec4 colour;
float at(ivec2 p) { return texelFetch(sum, clamp(p, ivec2(0), textureSize(sum, 0) - 1), 0).r; }
void main() {
  vec2 p = place * vec2(textureSize(sum, 0)) - 0.5;
  ivec2 i = ivec2(floor(p));
  vec2 f = p - vec2(i);
  float value = mix(mix(at(i), at(i + ivec2(1, 0)), f.x), mix(at(i + ivec2(0, 1)), at(i + ivec2(1, 1)), f.x), f.y);
  float grey = clamp((value - window.x) / (window.y - window.x), 0.0, 1.0);
  colour = vec4(vec3(inverted ? 1.0 - grey : grey), 1.0);
}`;

function compile(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  const logs = [...gl.getAttachedShaders(program).map((s) => gl.getShaderInfoLog(s)), gl.getProgramInfoLog(program)];
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(logs.join(" "));
  const uniforms = {};
  for (let i = 0; i < (gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS) ?? 0); i++) {
    const { name } = gl.getActiveUniform(program, i);
    uniforms[name] = gl.getUniformLocation(program, name);
  }
  return { program, uniforms };
}

/** Float32 sums where they can be blended, half floats where only those can; or an error that says what is missing. */
function sumFormat(gl) {
  if (gl.getExtension("EXT_color_buffer_float")) {
    return gl.getExtension("EXT_float_blend") ? gl.R32F : gl.R16F;
  }
  if (gl.getExtension("EXT_color_buffer_half_float")) return gl.R16F;
  throw new Error(
    "The graphics driver cannot draw into float textures (EXT_color_buffer_float), which sums of Gaussians need. " +
      "A newer driver or another browser may help.",
  );
}

function decode(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** The texture that holds a model. */
function uploadCloud(gl, { data, drawn }) {
  const rows = Math.ceil(drawn / PER_ROW);
  const table = new Float32Array(decode(data).buffer);
  const texels = new Float32Array(4 * TEXELS * PER_ROW * rows);
  for (let i = 0; i < drawn; i++) {
    const [from, to] = [COLUMNS * i, 4 * TEXELS * i];
    texels.set(table.subarray(from, from + 3), to);
    texels[to + 3] = table[from + 9];
    texels.set(table.subarray(from + 3, from + 9), to + 4);
  }
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA32F, TEXELS * PER_ROW, rows);
  gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, TEXELS * PER_ROW, rows, gl.RGBA, gl.FLOAT, texels);
  readExactly(gl);
  return texture;
}

/** No filtering of the bound texture: float textures may not have it. */
function readExactly(gl) {
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
}

/** Two triangles for each quad of a batch, whose corners are numbered from 4 times the quad. */
function quads(gl) {
  const corners = Uint16Array.from({ length: 6 * BATCH }, (_, i) => 4 * Math.floor(i / 6) + [0, 1, 2, 2, 1, 3][i % 6]);
  gl.bindVertexArray(gl.createVertexArray());
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, corners, gl.STATIC_DRAW);
}

/**
 * What draws the models on a canvas; throws where the browser cannot.
 *
 * A view says what is seen: model (index), rotation, pan (A), pixelSize (A per pixel of the target),
 * blur (A^2), depth and halfThickness (A). `unit` keeps sums near 1, within a half float's range.
 */
function createRenderer(canvas, models, unit) {
  const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false });
  if (!gl) throw new Error("This browser offers no WebGL 2. A current browser with graphics acceleration is needed.");
  const format = sumFormat(gl);
  const most = PER_ROW * gl.getParameter(gl.MAX_TEXTURE_SIZE);
  if (models.some(({ drawn }) => drawn > most)) {
    throw new Error(`This graphics driver cannot hold so many Gaussians: try taigs view --max-gaussians ${most}.`);
  }
  const splat = compile(gl, SPLAT_VERTEX, SPLAT_FRAGMENT);
  const grey = compile(gl, GREY_VERTEX, GREY_FRAGMENT);
  quads(gl);
  const clouds = new Map();
  const targets = new Map();

  function cloud(index) {
    if (!clouds.has(index)) clouds.set(index, uploadCloud(gl, models[index]));
    return clouds.get(index);
  }

  /** A texture to draw into, by purpose: one for the screen, one for reading back. */
  function target(purpose, width, height) {
    const old = targets.get(purpose);
    if (old && old.width === width && old.height === height) return old;
    if (old) {
      gl.deleteTexture(old.texture);
      gl.deleteFramebuffer(old.buffer);
    }
    const made = { width, height, texture: gl.createTexture(), buffer: gl.createFramebuffer() };
    gl.bindTexture(gl.TEXTURE_2D, made.texture);
    gl.texStorage2D(gl.TEXTURE_2D, 1, format, width, height);
    readExactly(gl);
    gl.bindFramebuffer(gl.FRAMEBUFFER, made.buffer);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, made.texture, 0);
    targets.set(purpose, made);
    return made;
  }

  function accumulate(view, purpose, width, height) {
    const { buffer } = target(purpose, width, height);
    const { drawn } = models[view.model];
    const u = splat.uniforms;
    gl.bindFramebuffer(gl.FRAMEBUFFER, buffer);
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE);
    gl.useProgram(splat.program);
    gl.uniform3fv(u.axis_x, view.rotation[0]);
    gl.uniform3fv(u.axis_y, view.rotation[1]);
    gl.uniform3fv(u.axis_z, view.rotation[2]);
    gl.uniform2fv(u.shift, view.pan);
    gl.uniform2f(u.pixels, width, height);
    gl.uniform1f(u.pixel_size, view.pixelSize);
    gl.uniform1f(u.blur, view.blur);
    gl.uniform2f(u.slab, view.depth, Math.min(view.halfThickness, 1e30));
    gl.uniform1f(u.unit, unit);
    gl.uniform1i(u.count, drawn);
    gl.bindTexture(gl.TEXTURE_2D, cloud(view.model));
    gl.drawElementsInstanced(gl.TRIANGLES, 6 * BATCH, gl.UNSIGNED_SHORT, 0, Math.ceil(drawn / BATCH));
    gl.disable(gl.BLEND);
  }

  /** Draw onto the canvas; sums are taken at `scale` times its resolution. */
  function show(view, scale, [black, white], inverted) {
    const [width, height] = [canvas.width, canvas.height].map((n) => Math.max(1, Math.round(n * scale)));
    accumulate({ ...view, pixelSize: (view.pixelSize * canvas.width) / width }, "screen", width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.useProgram(grey.program);
    gl.bindTexture(gl.TEXTURE_2D, targets.get("screen").texture);
    gl.uniform2f(grey.uniforms.window, black * unit, white * unit);
    gl.uniform1i(grey.uniforms.inverted, inverted);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /** Line integrals (mass / A^2) of a view as Float32Array, row 0 at the bottom. */
  function read(view, width, height) {
    accumulate(view, "reading", width, height);
    const texels = new Float32Array(4 * width * height);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.FLOAT, texels);
    return Float32Array.from({ length: width * height }, (_, i) => texels[4 * i] / unit);
  }

  return { show, read, bits: format === gl.R32F ? 32 : 16 };
}
