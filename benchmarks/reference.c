/* The yardstick of the CPU kernels: a step in C with AVX2 intrinsics on one thread. Supports and results are those of
 * taigs/kernels, rows follow from each other as there; guards against what is no Gaussian, too narrow or too correlated
 * are missing. Built and called by against_c.py. */
#include <immintrin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 128
#define CUTOFF 4.0f
#define LOG2_E 1.44269504f
#define AT(array, j) ((array) + (size_t)(j) * n) /* row j of a (rows, n) array */

static inline float fexp(float x) { /* branch-free: the loops around it are vectorised by the compiler */
    float z = x * LOG2_E, i = floorf(z + 0.5f), f = z - i;
    float p = 1.5403530e-4f * f + 1.33335581e-3f;
    p = p * f + 9.61812911e-3f, p = p * f + 5.55041087e-2f, p = p * f + 2.40226507e-1f, p = p * f + 6.93147181e-1f;
    int e = (int)i + 127;
    union { int i; float f; } u = {(e < 0 ? 0 : e > 254 ? 254 : e) << 23};
    return (p * f + 1.0f) * u.f;
}

static inline __m256 vset(float x) { return _mm256_set1_ps(x); }

static inline __m256 vexp(__m256 x) {
    __m256 z = _mm256_mul_ps(x, vset(LOG2_E));
    __m256 i = _mm256_round_ps(z, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm256_sub_ps(z, i);
    __m256 p = _mm256_fmadd_ps(f, vset(1.5403530e-4f), vset(1.33335581e-3f));
    p = _mm256_fmadd_ps(p, f, vset(9.61812911e-3f));
    p = _mm256_fmadd_ps(p, f, vset(5.55041087e-2f));
    p = _mm256_fmadd_ps(p, f, vset(2.40226507e-1f));
    p = _mm256_fmadd_ps(p, f, vset(6.93147181e-1f));
    p = _mm256_fmadd_ps(p, f, vset(1.0f));
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(i), _mm256_set1_epi32(127));
    e = _mm256_min_epi32(_mm256_max_epi32(e, _mm256_setzero_si256()), _mm256_set1_epi32(254));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(e, 23)));
}

static inline __m256 lanes_from(float x) {
    return _mm256_add_ps(_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7), vset(x));
}

static inline float vsum(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline int imax(int a, int b) { return a > b ? a : b; }
static inline int imin(int a, int b) { return a < b ? a : b; }

/* ---- cloud: raw (11, n) position, log sigma, quaternion, raw mass -> cov (6, n), mass (n) ---- */

void covariance(int n, const float *raw, float unit, float *restrict cov, float *restrict mass) {
    for (int g = 0; g < n; g++) {
        float w = AT(raw, 6)[g], x = AT(raw, 7)[g], y = AT(raw, 8)[g], z = AT(raw, 9)[g];
        float q = 1 / sqrtf(w * w + x * x + y * y + z * z);
        w *= q, x *= q, y *= q, z *= q;
        float a = fexp(AT(raw, 3)[g]), b = fexp(AT(raw, 4)[g]), c = fexp(AT(raw, 5)[g]);
        float m00 = a * (1 - 2 * (y * y + z * z)), m01 = b * 2 * (x * y - w * z), m02 = c * 2 * (x * z + w * y);
        float m10 = a * 2 * (x * y + w * z), m11 = b * (1 - 2 * (x * x + z * z)), m12 = c * 2 * (y * z - w * x);
        float m20 = a * 2 * (x * z - w * y), m21 = b * 2 * (y * z + w * x), m22 = c * (1 - 2 * (x * x + y * y));
        AT(cov, 0)[g] = m00 * m00 + m01 * m01 + m02 * m02;
        AT(cov, 1)[g] = m00 * m10 + m01 * m11 + m02 * m12;
        AT(cov, 2)[g] = m00 * m20 + m01 * m21 + m02 * m22;
        AT(cov, 3)[g] = m10 * m10 + m11 * m11 + m12 * m12;
        AT(cov, 4)[g] = m10 * m20 + m11 * m21 + m12 * m22;
        AT(cov, 5)[g] = m20 * m20 + m21 * m21 + m22 * m22;
        float r = AT(raw, 10)[g];
        mass[g] = unit * (fmaxf(r, 0) + logf(1 + fexp(-fabsf(r))));
    }
}

static void covariance_vjp(int n, int first, int size, const float *raw, float unit, const float *v_pos /* 3 rows */,
                           const float *v_cov /* 6 */, const float *v_mass, float *restrict v_raw) {
    for (int i = 0; i < size; i++) {
        int g = first + i;
        float w = AT(raw, 6)[g], x = AT(raw, 7)[g], y = AT(raw, 8)[g], z = AT(raw, 9)[g];
        float k = 1 / sqrtf(w * w + x * x + y * y + z * z);
        w *= k, x *= k, y *= k, z *= k;
        float R[3][3] = {{1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)},
                         {2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)},
                         {2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)}};
        float g0 = 2 * v_cov[i], g1 = 2 * v_cov[CHUNK + i], g2 = 2 * v_cov[2 * CHUNK + i];
        float g3 = 2 * v_cov[3 * CHUNK + i], g4 = 2 * v_cov[4 * CHUNK + i], g5 = 2 * v_cov[5 * CHUNK + i];
        float V[3][3];
        for (int j = 0; j < 3; j++) {
            float s2 = fexp(2 * AT(raw, 3 + j)[g]);
            float u0 = g0 * R[0][j] + g1 * R[1][j] + g2 * R[2][j];
            float u1 = g1 * R[0][j] + g3 * R[1][j] + g4 * R[2][j];
            float u2 = g2 * R[0][j] + g4 * R[1][j] + g5 * R[2][j];
            AT(v_raw, 3 + j)[g] = s2 * (u0 * R[0][j] + u1 * R[1][j] + u2 * R[2][j]);
            V[0][j] = s2 * u0, V[1][j] = s2 * u1, V[2][j] = s2 * u2;
        }
        float vw = 2 * (-z * V[0][1] + y * V[0][2] + z * V[1][0] - x * V[1][2] - y * V[2][0] + x * V[2][1]);
        float vx = 2 * (y * V[0][1] + z * V[0][2] + y * V[1][0] - 2 * x * V[1][1] - w * V[1][2] + z * V[2][0] +
                        w * V[2][1] - 2 * x * V[2][2]);
        float vy = 2 * (-2 * y * V[0][0] + x * V[0][1] + w * V[0][2] + x * V[1][0] + z * V[1][2] - w * V[2][0] +
                        z * V[2][1] - 2 * y * V[2][2]);
        float vz = 2 * (-2 * z * V[0][0] - w * V[0][1] + x * V[0][2] + w * V[1][0] - 2 * z * V[1][1] + y * V[1][2] +
                        x * V[2][0] + y * V[2][1]);
        float radial = w * vw + x * vx + y * vy + z * vz;
        AT(v_raw, 6)[g] = k * (vw - w * radial), AT(v_raw, 7)[g] = k * (vx - x * radial);
        AT(v_raw, 8)[g] = k * (vy - y * radial), AT(v_raw, 9)[g] = k * (vz - z * radial);
        for (int j = 0; j < 3; j++) AT(v_raw, j)[g] = v_pos[j * CHUNK + i];
        AT(v_raw, 10)[g] = v_mass[i] * unit / (1 + fexp(-AT(raw, 10)[g]));
    }
}

/* ---- views (8 each: M row by row, t); images (n_views, height, width), width a multiple of 8 ---- */

typedef struct { float x[CHUNK], y[CHUNK], rx[CHUNK], ry[CHUNK], a[CHUNK], b[CHUNK], c[CHUNK], peak[CHUNK]; } Ellipses;

static void project(int n, int first, int size, const float *raw, const float *cov, const float *mass, const float *M,
                    Ellipses *restrict e) {
    float M0 = M[0], M1 = M[1], M2 = M[2], M3 = M[3], M4 = M[4], M5 = M[5], tx = M[6], ty = M[7];
    for (int i = 0; i < size; i++) {
        int g = first + i;
        float s0 = AT(cov, 0)[g], s1 = AT(cov, 1)[g], s2 = AT(cov, 2)[g];
        float s3 = AT(cov, 3)[g], s4 = AT(cov, 4)[g], s5 = AT(cov, 5)[g];
        float u0 = s0 * M0 + s1 * M1 + s2 * M2, u1 = s1 * M0 + s3 * M1 + s4 * M2, u2 = s2 * M0 + s4 * M1 + s5 * M2;
        float v0 = s0 * M3 + s1 * M4 + s2 * M5, v1 = s1 * M3 + s3 * M4 + s4 * M5, v2 = s2 * M3 + s4 * M4 + s5 * M5;
        float xx = M0 * u0 + M1 * u1 + M2 * u2, xy = M3 * u0 + M4 * u1 + M5 * u2, yy = M3 * v0 + M4 * v1 + M5 * v2;
        float inverse = 1 / (xx * yy - xy * xy);
        e->a[i] = -0.5f * yy * inverse, e->b[i] = xy * inverse, e->c[i] = -0.5f * xx * inverse;
        e->peak[i] = mass[g] * sqrtf(inverse) * 0.15915494f;
        e->rx[i] = CUTOFF * sqrtf(xx), e->ry[i] = CUTOFF * sqrtf(yy);
        float x = AT(raw, 0)[g], y = AT(raw, 1)[g], z = AT(raw, 2)[g];
        e->x[i] = M0 * x + M1 * y + M2 * z + tx, e->y[i] = M3 * x + M4 * y + M5 * z + ty;
    }
}

#define SUPPORT_2D                                                                                          \
    float x = e.x[i], y = e.y[i], a = e.a[i], b = e.b[i], c = e.c[i];                                       \
    int y0 = imax((int)ceilf(y - e.ry[i]), 0), y1 = imin((int)floorf(y + e.ry[i]), height - 1);             \
    int k0 = imax((int)ceilf(x - e.rx[i]) >> 3, 0), k1 = imin((int)floorf(x + e.rx[i]) >> 3, width / 8 - 1); \
    float dy = y0 - y, q = fexp(2 * c);                                                                     \
    __m256 va = vset(a), vb = vset(b), first_row = vset(c * dy * dy), ratio = vset(c * (2 * dy + 1));

#define FIRST_ROW                                                                                        \
    __m256 dx = lanes_from(8 * k - x);                                                                   \
    __m256 f = vexp(_mm256_fmadd_ps(_mm256_fmadd_ps(dx, va, vset(b * dy)), dx, first_row));              \
    __m256 r = vexp(_mm256_fmadd_ps(dx, vb, ratio)), vq = vset(q);

void forward(int n, const float *raw, const float *cov, const float *mass, int n_views, const float *views, int height,
             int width, float *images) {
    Ellipses e;
    for (int v = 0; v < n_views; v++) {
        float *image = images + (size_t)v * height * width;
        memset(image, 0, sizeof(float) * height * width);
        for (int first = 0; first < n; first += CHUNK) {
            int size = imin(CHUNK, n - first);
            project(n, first, size, raw, cov, mass, views + 8 * v, &e);
            for (int i = 0; i < size; i++) {
                SUPPORT_2D
                for (int k = k0; k <= k1; k++) {
                    FIRST_ROW
                    f = _mm256_mul_ps(f, vset(e.peak[i]));
                    float *p = image + (size_t)y0 * width + 8 * k;
                    for (int row = y0; row <= y1; row++, p += width) {
                        _mm256_storeu_ps(p, _mm256_add_ps(_mm256_loadu_ps(p), f));
                        f = _mm256_mul_ps(f, r), r = _mm256_mul_ps(r, vq);
                    }
                }
            }
        }
    }
}

/* sums for gain and offset (5 a view), then residual = weight * gain * (gain * model + offset - target) */
void compare(int n_views, int pixels, const float *images, const float *targets, const float *scale,
             float *restrict residual, float *restrict sums) {
    for (int v = 0; v < n_views; v++) {
        const float *m = images + (size_t)v * pixels, *t = targets + (size_t)v * pixels;
        float *out = residual + (size_t)v * pixels, s[5] = {0}, loss = 0;
        float gain = scale[3 * v], offset = scale[3 * v + 1], weight = scale[3 * v + 2];
        for (int i = 0; i < pixels; i++)
            s[0] += m[i], s[1] += m[i] * m[i], s[2] += m[i] * t[i], s[3] += t[i], s[4] += t[i] * t[i];
        for (int i = 0; i < pixels; i++) {
            float d = gain * m[i] + offset - t[i];
            out[i] = d * (weight * gain);
            loss += d * d;
        }
        memcpy(sums + 6 * v, s, sizeof s);
        sums[6 * v + 5] = 0.5f * weight * loss;
    }
}

void backward(int n, const float *raw, const float *cov, const float *mass, float unit, int n_views,
              const float *views, int height, int width, const float *residual, float *v_raw) {
    Ellipses e;
    float s[6][CHUNK], v_pos[3 * CHUNK], v_cov[6 * CHUNK], v_mass[CHUNK];
    for (int first = 0; first < n; first += CHUNK) {
        int size = imin(CHUNK, n - first);
        memset(v_pos, 0, sizeof v_pos), memset(v_cov, 0, sizeof v_cov), memset(v_mass, 0, sizeof v_mass);
        for (int v = 0; v < n_views; v++) {
            const float *image = residual + (size_t)v * height * width, *M = views + 8 * v;
            project(n, first, size, raw, cov, mass, M, &e);
            for (int i = 0; i < size; i++) {
                SUPPORT_2D
                __m256 zero = _mm256_setzero_ps(), t0 = zero, tx = zero, ty = zero, txx = zero, txy = zero, tyy = zero;
                for (int k = k0; k <= k1; k++) {
                    FIRST_ROW
                    __m256 w0 = zero, w1 = zero, w2 = zero, d = vset(dy), one = vset(1);
                    const float *p = image + (size_t)y0 * width + 8 * k;
                    for (int row = y0; row <= y1; row++, p += width) {
                        __m256 w = _mm256_mul_ps(_mm256_loadu_ps(p), f), wd = _mm256_mul_ps(w, d);
                        w0 = _mm256_add_ps(w0, w), w1 = _mm256_add_ps(w1, wd), w2 = _mm256_fmadd_ps(wd, d, w2);
                        f = _mm256_mul_ps(f, r), r = _mm256_mul_ps(r, vq), d = _mm256_add_ps(d, one);
                    }
                    __m256 wx = _mm256_mul_ps(w0, dx);
                    t0 = _mm256_add_ps(t0, w0), tx = _mm256_add_ps(tx, wx), ty = _mm256_add_ps(ty, w1);
                    txx = _mm256_fmadd_ps(wx, dx, txx), txy = _mm256_fmadd_ps(w1, dx, txy), tyy = _mm256_add_ps(tyy, w2);
                }
                s[0][i] = vsum(t0), s[1][i] = vsum(tx), s[2][i] = vsum(ty);
                s[3][i] = vsum(txx), s[4][i] = vsum(txy), s[5][i] = vsum(tyy);
            }
            for (int i = 0; i < size; i++) {
                float qx = -2 * e.a[i], qz = -e.b[i], qy = -2 * e.c[i], peak = e.peak[i];
                float s0 = s[0][i], sx = s[1][i], sy = s[2][i], sxx = s[3][i], sxy = s[4][i], syy = s[5][i];
                float txx = qx * sxx + qz * sxy, txy = qx * sxy + qz * syy, tyx = qz * sxx + qy * sxy;
                float tyy = qz * sxy + qy * syy, vx = peak * (qx * sx + qz * sy), vy = peak * (qz * sx + qy * sy);
                float xx = 0.5f * peak * (txx * qx + txy * qz - s0 * qx);
                float xy = 0.5f * peak * (txx * qz + txy * qy - s0 * qz);
                float yy = 0.5f * peak * (tyx * qz + tyy * qy - s0 * qy);
                v_mass[i] += s0 * sqrtf(qx * qy - qz * qz) * 0.15915494f;
                for (int j = 0; j < 3; j++) v_pos[j * CHUNK + i] += M[j] * vx + M[3 + j] * vy;
                int row = 0;
                for (int j = 0; j < 3; j++)
                    for (int k = j; k < 3; k++, row++)
                        v_cov[row * CHUNK + i] += M[j] * (xx * M[k] + xy * M[3 + k]) + M[3 + j] * (xy * M[k] + yy * M[3 + k]);
            }
        }
        covariance_vjp(n, first, size, raw, unit, v_pos, v_cov, v_mass, v_raw);
    }
}

void adam(int n, float *restrict raw, const float *restrict v_raw, float *restrict moment1, float *restrict moment2,
          const float *rates /* 11 */, float beta1, float beta2, float correction1, float correction2) {
    for (int j = 0; j < 11; j++)
        for (int g = 0; g < n; g++) {
            float v = AT(v_raw, j)[g];
            float m1 = beta1 * AT(moment1, j)[g] + (1 - beta1) * v, m2 = beta2 * AT(moment2, j)[g] + (1 - beta2) * v * v;
            AT(moment1, j)[g] = m1, AT(moment2, j)[g] = m2;
            AT(raw, j)[g] -= rates[j] * (m1 * correction1) / (sqrtf(m2 * correction2) + 1e-15f);
        }
}

/* ---- volumes (nz, ny, nx), nx a multiple of 8; a Gaussian in voxels: mean, exponents, peak, half-widths ---- */

typedef struct { float x, y, z, xx, xy, xz, yy, yz, zz, peak, rx, ry, rz; int g; } Voxels;

static Voxels in_voxels(int n, int g, const float *raw, const float *cov, const float *mass, const float *grid) {
    float h = 1 / grid[3], s = h * h;
    float xx = AT(cov, 0)[g] * s, xy = AT(cov, 1)[g] * s, xz = AT(cov, 2)[g] * s;
    float yy = AT(cov, 3)[g] * s, yz = AT(cov, 4)[g] * s, zz = AT(cov, 5)[g] * s;
    float m0 = yy * zz - yz * yz, m1 = xz * yz - xy * zz, m2 = xy * yz - xz * yy;
    float inverse = 1 / (xx * m0 + xy * m1 + xz * m2);
    Voxels v = {(AT(raw, 0)[g] - grid[0]) * h, (AT(raw, 1)[g] - grid[1]) * h, (AT(raw, 2)[g] - grid[2]) * h,
                -0.5f * m0 * inverse, -m1 * inverse, -m2 * inverse, -0.5f * (xx * zz - xz * xz) * inverse,
                -(xy * xz - xx * yz) * inverse, -0.5f * (xx * yy - xy * xy) * inverse,
                mass[g] * sqrtf(inverse) * 0.0634936359f, CUTOFF * sqrtf(xx), CUTOFF * sqrtf(yy), CUTOFF * sqrtf(zz), g};
    return v;
}

/* All Gaussians in voxels, sorted by blocks of 8 planes and 8 rows: what one touches is then still in the cache. */
static Voxels *sorted(int n, const float *raw, const float *cov, const float *mass, const float *grid, int nz, int ny) {
    int bz = nz / 8 + 1, by = ny / 8 + 1;
    int *starts = calloc(bz * by + 1, sizeof(int)), *keys = malloc(n * sizeof(int));
    Voxels *all = malloc(n * sizeof(Voxels));
    for (int g = 0; g < n; g++) {
        int z = (AT(raw, 2)[g] - grid[2]) / grid[3], y = (AT(raw, 1)[g] - grid[1]) / grid[3];
        keys[g] = imin(imax(z, 0), nz - 1) / 8 * by + imin(imax(y, 0), ny - 1) / 8;
        starts[keys[g] + 1]++;
    }
    for (int k = 0; k < bz * by; k++) starts[k + 1] += starts[k];
    for (int g = 0; g < n; g++) all[starts[keys[g]]++] = in_voxels(n, g, raw, cov, mass, grid);
    free(starts), free(keys);
    return all;
}

#define SUPPORT_3D                                                                                            \
    int y0 = imax((int)ceilf(v.y - v.ry), 0), y1 = imin((int)floorf(v.y + v.ry), ny - 1);                     \
    int z0 = imax((int)ceilf(v.z - v.rz), 0), z1 = imin((int)floorf(v.z + v.rz), nz - 1);                     \
    int k0 = imax((int)ceilf(v.x - v.rx) >> 3, 0), k1 = imin((int)floorf(v.x + v.rx) >> 3, nx / 8 - 1);       \
    float dy = y0 - v.y, dz = z0 - v.z;                                                                       \
    __m256 qy = vset(fexp(2 * v.yy)), qz = vset(fexp(2 * v.zz)), qyz = vset(fexp(v.yz));

/* The first value of a plane, its ratio to the next plane's, and that of the first to the second row. */
#define FIRST_PLANE                                                                                              \
    __m256 dx = lanes_from(8 * k - v.x);                                                                         \
    __m256 first = vexp(_mm256_fmadd_ps(_mm256_fmadd_ps(dx, vset(v.xx), vset(v.xy * dy + v.xz * dz)), dx,         \
                                        vset(v.yy * dy * dy + v.yz * dy * dz + v.zz * dz * dz)));                \
    __m256 up = vexp(_mm256_fmadd_ps(dx, vset(v.xz), vset(v.yz * dy + v.zz * (2 * dz + 1))));                    \
    __m256 along = vexp(_mm256_fmadd_ps(dx, vset(v.xy), vset(v.yz * dz + v.yy * (2 * dy + 1))));

#define NEXT_PLANE \
    first = _mm256_mul_ps(first, up), up = _mm256_mul_ps(up, qz), along = _mm256_mul_ps(along, qyz);

void voxelize(int n, const float *raw, const float *cov, const float *mass, const float *grid, int nz, int ny, int nx,
              float *volume) {
    Voxels *all = sorted(n, raw, cov, mass, grid, nz, ny);
    memset(volume, 0, sizeof(float) * nz * ny * nx);
    for (int i = 0; i < n; i++) {
        Voxels v = all[i];
        SUPPORT_3D
        for (int k = k0; k <= k1; k++) {
            FIRST_PLANE
            first = _mm256_mul_ps(first, vset(v.peak));
            for (int z = z0; z <= z1; z++) {
                __m256 f = first, r = along;
                float *p = volume + ((size_t)z * ny + y0) * nx + 8 * k;
                for (int y = y0; y <= y1; y++, p += nx) {
                    _mm256_storeu_ps(p, _mm256_add_ps(_mm256_loadu_ps(p), f));
                    f = _mm256_mul_ps(f, r), r = _mm256_mul_ps(r, qy);
                }
                NEXT_PLANE
            }
        }
    }
    free(all);
}

void voxelize_vjp(int n, const float *raw, const float *cov, const float *mass, float unit, const float *grid, int nz,
                  int ny, int nx, const float *volume, float *v_raw) {
    Voxels *all = sorted(n, raw, cov, mass, grid, nz, ny);
    float *v_pos = malloc(sizeof(float) * 10 * (n + CHUNK)); /* chunks of (3, CHUNK), (6, CHUNK), (CHUNK) */
    for (int i = 0; i < n; i++) {
        Voxels v = all[i];
        SUPPORT_3D
        __m256 zero = _mm256_setzero_ps(), one = vset(1);
        __m256 t0 = zero, tx = zero, ty = zero, tz = zero;
        __m256 txx = zero, txy = zero, txz = zero, tyy = zero, tyz = zero, tzz = zero;
        for (int k = k0; k <= k1; k++) {
            FIRST_PLANE
            __m256 vz = vset(dz), s0 = zero, s1 = zero;
            __m256 sz = zero, szz = zero, syz = zero;
            for (int z = z0; z <= z1; z++) {
                __m256 f = first, r = along, d = vset(dy), w0 = zero, w1 = zero, w2 = zero;
                const float *p = volume + ((size_t)z * ny + y0) * nx + 8 * k;
                for (int y = y0; y <= y1; y++, p += nx) {
                    __m256 w = _mm256_mul_ps(_mm256_loadu_ps(p), f), wd = _mm256_mul_ps(w, d);
                    w0 = _mm256_add_ps(w0, w), w1 = _mm256_add_ps(w1, wd), w2 = _mm256_fmadd_ps(wd, d, w2);
                    f = _mm256_mul_ps(f, r), r = _mm256_mul_ps(r, qy), d = _mm256_add_ps(d, one);
                }
                __m256 wz = _mm256_mul_ps(w0, vz);
                s0 = _mm256_add_ps(s0, w0), s1 = _mm256_add_ps(s1, w1), tyy = _mm256_add_ps(tyy, w2);
                sz = _mm256_add_ps(sz, wz), szz = _mm256_fmadd_ps(wz, vz, szz), syz = _mm256_fmadd_ps(w1, vz, syz);
                vz = _mm256_add_ps(vz, one);
                NEXT_PLANE
            }
            __m256 sx = _mm256_mul_ps(s0, dx);
            t0 = _mm256_add_ps(t0, s0), tx = _mm256_add_ps(tx, sx), ty = _mm256_add_ps(ty, s1), tz = _mm256_add_ps(tz, sz);
            txx = _mm256_fmadd_ps(sx, dx, txx), txy = _mm256_fmadd_ps(s1, dx, txy), txz = _mm256_fmadd_ps(sz, dx, txz);
            tyz = _mm256_add_ps(tyz, syz), tzz = _mm256_add_ps(tzz, szz);
        }
        float s0 = vsum(t0), s1[3] = {vsum(tx), vsum(ty), vsum(tz)}, xy = vsum(txy), xz = vsum(txz), yz = vsum(tyz);
        float s2[3][3] = {{vsum(txx), xy, xz}, {xy, vsum(tyy), yz}, {xz, yz, vsum(tzz)}};
        float Q[3][3] = {{-2 * v.xx, -v.xy, -v.xz}, {-v.xy, -2 * v.yy, -v.yz}, {-v.xz, -v.yz, -2 * v.zz}};
        float T[3][3], h = 1 / grid[3];
        float *out = v_pos + (size_t)(v.g / CHUNK) * 10 * CHUNK + v.g % CHUNK;
        for (int a = 0; a < 3; a++) {
            out[a * CHUNK] = v.peak * h * (Q[a][0] * s1[0] + Q[a][1] * s1[1] + Q[a][2] * s1[2]);
            for (int b = 0; b < 3; b++) T[a][b] = Q[a][0] * s2[0][b] + Q[a][1] * s2[1][b] + Q[a][2] * s2[2][b];
        }
        int row = 3;
        for (int a = 0; a < 3; a++)
            for (int b = a; b < 3; b++, row++)
                out[row * CHUNK] = 0.5f * v.peak * h * h *
                                   (T[a][0] * Q[0][b] + T[a][1] * Q[1][b] + T[a][2] * Q[2][b] - Q[a][b] * s0);
        float det = Q[0][0] * (Q[1][1] * Q[2][2] - Q[1][2] * Q[1][2]) - Q[0][1] * (Q[0][1] * Q[2][2] - Q[1][2] * Q[0][2]) +
                    Q[0][2] * (Q[0][1] * Q[1][2] - Q[1][1] * Q[0][2]);
        out[9 * CHUNK] = s0 * sqrtf(det) * 0.0634936359f;
    }
    for (int first = 0; first < n; first += CHUNK) {
        float *chunk = v_pos + (size_t)(first / CHUNK) * 10 * CHUNK;
        covariance_vjp(n, first, imin(CHUNK, n - first), raw, unit, chunk, chunk + 3 * CHUNK, chunk + 9 * CHUNK, v_raw);
    }
    free(v_pos), free(all);
}
