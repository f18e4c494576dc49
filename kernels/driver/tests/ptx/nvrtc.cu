// Kernels in CUDA C++ for the driver's tests; compiled to nvrtc.ptx (see the test's head).
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>

extern "C" __global__ void warp_sum(const float *x, float *out, int n) {
  __shared__ float part[32];
  float s = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) s += x[i];
  for (int o = 16; o > 0; o /= 2) s += __shfl_xor_sync(0xffffffff, s, o);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;
  __syncthreads();
  if (threadIdx.x < 32) {
    s = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0;
    for (int o = 16; o > 0; o /= 2) s += __shfl_down_sync(0xffffffff, s, o);
    if (threadIdx.x == 0) out[blockIdx.x] = s;
  }
}

// Inclusive, of at most one block.
extern "C" __global__ void scan(int *x, int n) {
  extern __shared__ int buffer[];
  int t = threadIdx.x;
  buffer[t] = t < n ? x[t] : 0;
  __syncthreads();
  for (int d = 1; d < blockDim.x; d *= 2) {
    int add = t >= d ? buffer[t - d] : 0;
    __syncthreads();
    buffer[t] += add;
    __syncthreads();
  }
  if (t < n) x[t] = buffer[t];
}

extern "C" __global__ void transpose(const float *in, float *out, int rows, int cols) {
  __shared__ float tile[32][33];
  int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
  for (int j = 0; j < 32; j += 8)
    if (x < cols && y + j < rows) tile[threadIdx.y + j][threadIdx.x] = in[(y + j) * cols + x];
  __syncthreads();
  x = blockIdx.y * 32 + threadIdx.x, y = blockIdx.x * 32 + threadIdx.y;
  for (int j = 0; j < 32; j += 8)
    if (x < rows && y + j < cols) out[(y + j) * rows + x] = tile[threadIdx.x][threadIdx.y + j];
}

extern "C" __global__ void matmul(const float *a, const float *b, float *c, int m, int n, int k) {
  __shared__ float as[16][16], bs[16][16];
  int row = blockIdx.y * 16 + threadIdx.y, col = blockIdx.x * 16 + threadIdx.x;
  float sum = 0;
  for (int t = 0; t < k; t += 16) {
    as[threadIdx.y][threadIdx.x] = row < m && t + threadIdx.x < k ? a[row * k + t + threadIdx.x] : 0;
    bs[threadIdx.y][threadIdx.x] = col < n && t + threadIdx.y < k ? b[(t + threadIdx.y) * n + col] : 0;
    __syncthreads();
    for (int i = 0; i < 16; i++) sum = fmaf(as[threadIdx.y][i], bs[i][threadIdx.x], sum);
    __syncthreads();
  }
  if (row < m && col < n) c[row * n + col] = sum;
}

// One warp: 16x16 tiles of f16 (or bf16) products with f32 sums.
extern "C" __global__ void wmma_f16(const __half *a, const __half *b, float *c, int k) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, 16, 16, 16, __half, row_major> fa;
  fragment<matrix_b, 16, 16, 16, __half, col_major> fb;
  fragment<accumulator, 16, 16, 16, float> fc;
  fill_fragment(fc, 0.0f);
  for (int i = 0; i < k; i += 16) {
    load_matrix_sync(fa, a + i, k);
    load_matrix_sync(fb, b + i, k);
    mma_sync(fc, fa, fb, fc);
  }
  for (int i = 0; i < fc.num_elements; i++) fc.x[i] *= 2;
  store_matrix_sync(c, fc, 16, mem_row_major);
}

extern "C" __global__ void wmma_bf16(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, int k) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, 16, 16, 16, __nv_bfloat16, row_major> fa;
  fragment<matrix_b, 16, 16, 16, __nv_bfloat16, row_major> fb;
  fragment<accumulator, 16, 16, 16, float> fc;
  load_matrix_sync(fc, c, 16, mem_col_major);
  for (int i = 0; i < k; i += 16) {
    load_matrix_sync(fa, a + i, k);
    load_matrix_sync(fb, b + i * 16, 16);
    mma_sync(fc, fa, fb, fc);
  }
  store_matrix_sync(c, fc, 16, mem_col_major);
}

extern "C" __global__ void histogram(const unsigned char *x, unsigned *bins, int n) {
  __shared__ unsigned local[256];
  local[threadIdx.x] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&local[x[i]], 1u);
  __syncthreads();
  atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
}

__constant__ float table[4] = {1.0f, 0.5f, 0.25f, 0.125f};
__device__ int counter = 7;

// Slow paths, double precision, switch tables, local arrays, votes.
extern "C" __global__ void mixed(const float *x, float *y, double *z, int *w, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float v = x[i], r;
  switch (i % 7) {
    case 0: r = sinf(v * 1000.0f); break;
    case 1: r = expf(v); break;
    case 2: r = logf(fabsf(v) + 1e-20f); break;
    case 3: r = powf(fabsf(v), 1.7f); break;
    case 4: r = tanhf(v); break;
    case 5: r = v / 3.0f; break;
    default: r = erff(v); break;
  }
  y[i] = r * table[i & 3];
  z[i] = exp((double)v) / 3.0 + sqrt((double)i);
  int local[8];
  for (int k = 0; k < 8; k++) local[k] = i * k;
  int s = 0;
  for (int k = 0; k < 8; k++) s += local[(k * (i & 7)) & 7];
  unsigned m = __ballot_sync(__activemask(), v > 0);
  w[i] = s + __popc(m) % 1 + __clz(i) + __brev(i) % 3 + __ffs(i) + (int)__dp4a(i, i, 3) + (int)(long long)(i * 1000003LL >> 7);
  if (i == 0) atomicAdd(&counter, 1);
}

extern "C" __global__ void halves(const __half2 *a, const __half2 *b, __half2 *c, const __nv_bfloat162 *d, __nv_bfloat162 *e, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  c[i] = __hfma2(a[i], b[i], __hadd2(a[i], __float2half2_rn(0.5f)));
  float2 f = __bfloat1622float2(d[i]);
  e[i] = __floats2bfloat162_rn(f.x * f.y, f.x - f.y);
}

// A two-stage pipeline of asynchronous copies: y[i] = 2 x[i].
extern "C" __global__ void pipeline(const float4 *x, float4 *y, int tiles) {
  __shared__ float4 stage[2][64];
  int t = threadIdx.x;
  auto copy = [&](int tile) {
    unsigned to = (unsigned)__cvta_generic_to_shared(&stage[tile & 1][t]);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(x + tile * 64 + t) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
  copy(0);
  for (int i = 0; i < tiles; i++) {
    if (i + 1 < tiles) {
      copy(i + 1);
      asm volatile("cp.async.wait_group 1;" ::: "memory");
    } else {
      asm volatile("cp.async.wait_group 0;" ::: "memory");
    }
    __syncthreads();
    float4 v = stage[i & 1][63 - t];
    y[i * 64 + 63 - t] = make_float4(2 * v.x, 2 * v.y, 2 * v.z, 2 * v.w);
    __syncthreads();
  }
}
