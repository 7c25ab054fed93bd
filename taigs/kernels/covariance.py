"""Raw parameters of a Gaussian -> covariance and mass, and back.

A slot whose parameters are no Gaussian's (`valid`) gets the covariance and the mass 0; no other kernel draws it,
and its gradient is 0.
"""

from taigs.kernels.layout import COLUMN, LAYOUT, ROW, at_most, chunk_of, exp, share, slots, within
from taigs.runtime import ti

LARGEST = 1e15  # A, or raw mass; beyond it products of two overflow float32
LARGEST_LOG_SIGMA = 34.0  # likewise: e^34 A = 6e14 A
SHORTEST_SQUARE = 1e-30  # of a quaternion that has a direction


@ti.func
def valid(cloud: ti.template(), g):
    """Whether the raw parameters of a slot are numbers, and such that a covariance and a mass follow."""
    w = cloud.raw[6][g]; x = cloud.raw[7][g]; y = cloud.raw[8][g]; z = cloud.raw[9][g]
    answer = within(w * w + x * x + y * y + z * z, SHORTEST_SQUARE, LARGEST)
    for j in ti.static((0, 1, 2, 10)):
        answer = answer & at_most(cloud.raw[j][g], LARGEST)
    for j in ti.static((3, 4, 5)):
        answer = answer & at_most(cloud.raw[j][g], LARGEST_LOG_SIGMA)
    return answer


@ti.func
def rotation(w, x, y, z):
    """Rotation matrix of a unit quaternion."""
    return ti.Matrix(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


@ti.kernel
def covariance(cloud: ti.template(), n_chunks: int):
    """S = (R diag(s)) (R diag(s))^T with s = exp(log s); mass = unit * softplus(raw), or unit * raw if signed."""
    # inputs:  cloud.raw (11, capacity)
    # outputs (overwritten): cloud.cov (6, capacity) xx xy xz yy yz zz in A^2; cloud.mass (capacity)
    for k in range(slots(n_chunks)):
        begin, end = share(k, n_chunks)
        for task in range(begin, end):
            first = chunk_of(cloud, task)
            unit = cloud.unit[None]
            for g in range(first, first + LAYOUT.chunk):
                ok = valid(cloud, g)
                w = cloud.raw[6][g]; x = cloud.raw[7][g]; y = cloud.raw[8][g]; z = cloud.raw[9][g]
                q = 1.0 / ti.sqrt(w * w + x * x + y * y + z * z)
                R = rotation(w * q, x * q, y * q, z * q)
                s = ti.Vector([exp(cloud.raw[3][g]), exp(cloud.raw[4][g]), exp(cloud.raw[5][g])])
                M = ti.Matrix([[R[i, j] * s[j] for j in range(3)] for i in range(3)])
                for j in ti.static(range(6)):
                    a = ti.static(ROW[j]); b = ti.static(COLUMN[j])
                    cloud.cov[j][g] = ti.select(ok, M[a, 0] * M[b, 0] + M[a, 1] * M[b, 1] + M[a, 2] * M[b, 2], 0.0)
            for g in range(first, first + LAYOUT.chunk):
                raw = ti.select(cloud.cov[0][g] > 0, cloud.raw[10][g], 0.0 if ti.static(cloud.signed) else -1e4)
                if ti.static(cloud.signed):
                    cloud.mass[g] = unit * raw
                else:
                    cloud.mass[g] = unit * (ti.max(raw, 0.0) + ti.log(1.0 + exp(-ti.abs(raw))))


# With G = dL/dS (symmetric) and M = R diag(s):  dL/dM = 2 G M;  dL/dlog s_j = s_j R_:j . dL/dM_:j;
# dL/dR = dL/dM diag(s), and R is quadratic in the unit quaternion u: dL/du by the product rule.
# u = q/|q|:  dL/dq = (dL/du - u (u . dL/du)) / |q|, so the gradient has no radial part.
# softplus' = 1 / (1 + exp(-raw)).
@ti.kernel
def covariance_vjp(cloud: ti.template(), n_chunks: int):
    # inputs:     cloud.raw (11, capacity), cloud.cov
    # cotangents: cloud.v_pos (3, capacity), cloud.v_cov (6, capacity) entries of G, cloud.v_mass (capacity)
    # outputs (overwritten): cloud.v_raw (11, capacity)
    for k in range(slots(n_chunks)):
        begin, end = share(k, n_chunks)
        for task in range(begin, end):
            first = chunk_of(cloud, task)
            unit = cloud.unit[None]
            for g in range(first, first + LAYOUT.chunk):
                ok = valid(cloud, g)
                w = ti.select(ok, cloud.raw[6][g], 1.0)
                x = ti.select(ok, cloud.raw[7][g], 0.0)
                y = ti.select(ok, cloud.raw[8][g], 0.0)
                z = ti.select(ok, cloud.raw[9][g], 0.0)
                n = 1.0 / ti.sqrt(w * w + x * x + y * y + z * z)
                w *= n; x *= n; y *= n; z *= n
                R = rotation(w, x, y, z)
                s2 = ti.Vector([exp(2 * ti.select(ok, cloud.raw[j][g], 0.0)) for j in range(3, 6)])
                g0 = 2 * cloud.v_cov[0][g]; g1 = 2 * cloud.v_cov[1][g]; g2 = 2 * cloud.v_cov[2][g]
                g3 = 2 * cloud.v_cov[3][g]; g4 = 2 * cloud.v_cov[4][g]; g5 = 2 * cloud.v_cov[5][g]
                G = ti.Matrix([[g0, g1, g2], [g1, g3, g4], [g2, g4, g5]]) @ R  # columns 2 G R_:j
                for j in ti.static(range(3)):
                    cloud.v_raw[3 + j][g] = s2[j] * (G[0, j] * R[0, j] + G[1, j] * R[1, j] + G[2, j] * R[2, j])
                V = ti.Matrix([[G[i, j] * s2[j] for j in range(3)] for i in range(3)])  # dL/dR
                vw = 2 * (-z * V[0, 1] + y * V[0, 2] + z * V[1, 0] - x * V[1, 2] - y * V[2, 0] + x * V[2, 1])
                vx = 2 * (y * V[0, 1] + z * V[0, 2] + y * V[1, 0] - 2 * x * V[1, 1] - w * V[1, 2]
                          + z * V[2, 0] + w * V[2, 1] - 2 * x * V[2, 2])  # fmt: skip
                vy = 2 * (-2 * y * V[0, 0] + x * V[0, 1] + w * V[0, 2] + x * V[1, 0] + z * V[1, 2]
                          - w * V[2, 0] + z * V[2, 1] - 2 * y * V[2, 2])  # fmt: skip
                vz = 2 * (-2 * z * V[0, 0] - w * V[0, 1] + x * V[0, 2] + w * V[1, 0] - 2 * z * V[1, 1]
                          + y * V[1, 2] + x * V[2, 0] + y * V[2, 1])  # fmt: skip
                radial = w * vw + x * vx + y * vy + z * vz
                cloud.v_raw[6][g] = n * (vw - w * radial)
                cloud.v_raw[7][g] = n * (vx - x * radial)
                cloud.v_raw[8][g] = n * (vy - y * radial)
                cloud.v_raw[9][g] = n * (vz - z * radial)
            for g in range(first, first + LAYOUT.chunk):
                for j in ti.static(range(3)):
                    cloud.v_raw[j][g] = cloud.v_pos[j][g]
                slope = unit
                if ti.static(not cloud.signed):
                    slope = unit / (1.0 + exp(-ti.select(cloud.cov[0][g] > 0, cloud.raw[10][g], 0.0)))
                cloud.v_raw[10][g] = cloud.v_mass[g] * slope
