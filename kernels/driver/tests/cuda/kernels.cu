// CUDA C++ as one finds it in the field, for NVRTC. Each kernel has a plain Rust reference in ../cuda.rs.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <mma.h>

using namespace nvcuda;

// Sum of n floats: grid-stride loop, tree in shared memory, shuffles in the last warp, one atomic a block.
extern "C" __global__ void reduce_sum(const float *x, float *sum, int n) {
    __shared__ float part[256];
    float s = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) s += x[i];
    part[threadIdx.x] = s;
    __syncthreads();
    for (int k = blockDim.x / 2; k >= 32; k /= 2) {
        if (threadIdx.x < k) part[threadIdx.x] += part[threadIdx.x + k];
        __syncthreads();
    }
    if (threadIdx.x < 32) {
        s = part[threadIdx.x];
        for (int k = 16; k > 0; k /= 2) s += __shfl_down_sync(0xffffffff, s, k);
        if (threadIdx.x == 0) atomicAdd(sum, s);
    }
}

// Greatest and least, by warp reductions of integers and atomics.
extern "C" __global__ void extremes(const int *x, int *least, int *greatest, unsigned *any, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int v = x[i < n ? i : n - 1];
    int low = __reduce_min_sync(0xffffffff, v), high = __reduce_max_sync(0xffffffff, v);
    unsigned bits = __reduce_or_sync(0xffffffff, (unsigned)v);
    if ((threadIdx.x & 31) == 0) {
        atomicMin(least, low);
        atomicMax(greatest, high);
        atomicOr(any, bits);
    }
}

// Inclusive scan of a block of up to 1024 integers, by warps and then over the warps.
extern "C" __global__ void scan(const int *x, int *y, int n) {
    __shared__ int totals[32];
    int i = threadIdx.x, lane = i & 31, warp = i >> 5;
    int v = i < n ? x[i] : 0;
    for (int k = 1; k < 32; k *= 2) {
        int other = __shfl_up_sync(0xffffffff, v, k);
        if (lane >= k) v += other;
    }
    if (lane == 31) totals[warp] = v;
    __syncthreads();
    if (warp == 0) {
        int t = lane < (int)(blockDim.x >> 5) ? totals[lane] : 0;
        for (int k = 1; k < 32; k *= 2) {
            int other = __shfl_up_sync(0xffffffff, t, k);
            if (lane >= k) t += other;
        }
        totals[lane] = t;
    }
    __syncthreads();
    if (warp > 0) v += totals[warp - 1];
    if (i < n) y[i] = v;
}

// y = xᵀ for an m×n matrix, through a padded tile of shared memory.
extern "C" __global__ void transpose(const float *x, float *y, int m, int n) {
    __shared__ float tile[32][33];
    int column = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y * 32;
    for (int k = threadIdx.y; k < 32; k += blockDim.y)
        if (row + k < m && column < n) tile[k][threadIdx.x] = x[(row + k) * n + column];
    __syncthreads();
    int target = blockIdx.y * 32 + threadIdx.x;
    for (int k = threadIdx.y; k < 32; k += blockDim.y)
        if (target < m && blockIdx.x * 32 + k < n) y[(blockIdx.x * 32 + k) * m + target] = tile[threadIdx.x][k];
}

// c = a·b, 16×16 tiles in shared memory; any sizes.
extern "C" __global__ void matmul_tiled(const float *a, const float *b, float *c, int m, int n, int k) {
    __shared__ float as[16][16], bs[16][16];
    int row = blockIdx.y * 16 + threadIdx.y, column = blockIdx.x * 16 + threadIdx.x;
    float sum = 0;
    for (int t = 0; t < k; t += 16) {
        as[threadIdx.y][threadIdx.x] = row < m && t + threadIdx.x < k ? a[row * k + t + threadIdx.x] : 0;
        bs[threadIdx.y][threadIdx.x] = column < n && t + threadIdx.y < k ? b[(t + threadIdx.y) * n + column] : 0;
        __syncthreads();
        for (int i = 0; i < 16; i++) sum += as[threadIdx.y][i] * bs[i][threadIdx.x];
        __syncthreads();
    }
    if (row < m && column < n) c[row * n + column] = sum;
}

// c = a·b for 16-bit a and b by wmma, a warp for each 16×16 tile of c; sizes are multiples of 16.
template <typename T> __device__ void wmma_tile(const T *a, const T *b, float *c, int n, int k) {
    int warp = threadIdx.x / 32 + blockIdx.x * (blockDim.x / 32), tiles = n / 16;
    int row = warp / tiles * 16, column = warp % tiles * 16;
    wmma::fragment<wmma::matrix_a, 16, 16, 16, T, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, T, wmma::row_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> fc;
    wmma::fill_fragment(fc, 0.0f);
    for (int t = 0; t < k; t += 16) {
        wmma::load_matrix_sync(fa, a + row * k + t, k);
        wmma::load_matrix_sync(fb, b + t * n + column, n);
        wmma::mma_sync(fc, fa, fb, fc);
    }
    for (int i = 0; i < fc.num_elements; i++) fc.x[i] *= 0.5f;
    wmma::store_matrix_sync(c + row * n + column, fc, n, wmma::mem_row_major);
}
extern "C" __global__ void wmma_f16(const half *a, const half *b, float *c, int n, int k) { wmma_tile(a, b, c, n, k); }
extern "C" __global__ void wmma_bf16(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, int n, int k) { wmma_tile(a, b, c, n, k); }

// c += a·b for one 16×16 tile, a warp: b and c are column-major, and c's type is that of the sums.
template <typename S> __device__ void wmma_columns(const half *a, const half *b, S *c, int k) {
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 16, S> fc;
    wmma::load_matrix_sync(fc, c, 16, wmma::mem_col_major);
    for (int t = 0; t < k; t += 16) {
        wmma::load_matrix_sync(fa, a + t, k);
        wmma::load_matrix_sync(fb, b + t, k);
        wmma::mma_sync(fc, fa, fb, fc);
    }
    wmma::store_matrix_sync(c, fc, 16, wmma::mem_col_major);
}
extern "C" __global__ void wmma_columns_f32(const half *a, const half *b, float *c, int k) { wmma_columns(a, b, c, k); }
extern "C" __global__ void wmma_columns_f16(const half *a, const half *b, half *c, int k) { wmma_columns(a, b, c, k); }

// One 16×8 tile of c = a·bᵀ by mma.sync, fragments through ldmatrix; a is 16×k, b is 8×k.
extern "C" __global__ void mma_ldmatrix(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, int k) {
    __shared__ __align__(16) __nv_bfloat16 as[16 * 16], bs[8 * 16];
    float d[4] = {0, 0, 0, 0};
    unsigned lane = threadIdx.x;
    for (int t = 0; t < k; t += 16) {
        for (unsigned i = lane; i < 256; i += 32) as[i] = a[i / 16 * k + t + i % 16];
        for (unsigned i = lane; i < 128; i += 32) bs[i] = b[i / 16 * k + t + i % 16];
        __syncwarp();
        unsigned fa[4], fb[2];
        unsigned pa = __cvta_generic_to_shared(as + lane % 16 * 16 + lane / 16 * 8);
        unsigned pb = __cvta_generic_to_shared(bs + lane % 8 * 16 + (lane / 8 % 2) * 8);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3]) : "r"(pa));
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(fb[0]), "=r"(fb[1]) : "r"(pb));
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
        __syncwarp();
    }
    for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

// Histogram of bytes: counts in shared memory, then added to global ones.
extern "C" __global__ void histogram(const unsigned char *x, unsigned *bins, int n) {
    __shared__ unsigned local[256];
    for (int i = threadIdx.x; i < 256; i += blockDim.x) local[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&local[x[i]], 1u);
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += blockDim.x) atomicAdd(&bins[i], local[i]);
}

// Stable compaction of the odd numbers of a block, by ballots.
extern "C" __global__ void keep_odd(const int *x, int *y, int *count, int n) {
    __shared__ int counts[33];
    int i = threadIdx.x, lane = i & 31, warp = i >> 5;
    bool odd = i < n && (x[i] & 1);
    unsigned mask = __ballot_sync(0xffffffff, odd);
    if (lane == 0) counts[warp + 1] = __popc(mask);
    __syncthreads();
    if (i == 0) {
        counts[0] = 0;
        for (int w = 0; w < (int)(blockDim.x / 32); w++) counts[w + 1] += counts[w];
        *count = counts[blockDim.x / 32];
    }
    __syncthreads();
    if (odd) y[counts[warp] + __popc(mask & ((1u << lane) - 1))] = x[i];
}

// Lanes exchange by every kind of shuffle, and match equal values.
extern "C" __global__ void shuffles(const int *x, int *y) {
    int v = x[threadIdx.x], lane = threadIdx.x & 31;
    int r = __shfl_xor_sync(0xffffffff, v, 5) * 3;
    r += __shfl_sync(0xffffffff, v, (lane * 7 + 3) & 31);
    r ^= __shfl_down_sync(0xffffffff, v, 3, 8);
    r -= __shfl_up_sync(0xffffffff, v, 2, 16);
    r += (int)__match_any_sync(0xffffffff, v & 3);
    r ^= __any_sync(0xffffffff, v == 0) << 9 ^ __all_sync(0xffffffff, v != 0) << 10;
    y[threadIdx.x] = r;
}

// A numerically safe softmax of rows of n ≤ 1024, a block each, with dynamic shared memory.
extern "C" __global__ void softmax(const float *x, float *y, int n) {
    extern __shared__ float row[];
    __shared__ float total[2];
    float top = __int_as_float(0xff800000), sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) row[i] = x[blockIdx.x * n + i];
    __syncthreads();
    if (threadIdx.x < 32) {
        for (int i = threadIdx.x; i < n; i += 32) top = fmaxf(top, row[i]);
        for (int k = 16; k > 0; k /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, k));
        for (int i = threadIdx.x; i < n; i += 32) sum += expf(row[i] - top);
        for (int k = 16; k > 0; k /= 2) sum += __shfl_xor_sync(0xffffffff, sum, k);
        if (threadIdx.x == 0) total[0] = top, total[1] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[blockIdx.x * n + i] = expf(row[i] - total[0]) / total[1];
}

// Element-wise functions of CUDA's own library, whose code the compiler inlines.
extern "C" __global__ void functions(const float *x, float *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i], *out = y + 12 * i;
    out[0] = expf(v), out[1] = logf(fabsf(v)), out[2] = sinf(v), out[3] = cosf(v), out[4] = tanhf(v), out[5] = erff(v);
    out[6] = rsqrtf(fabsf(v)), out[7] = powf(fabsf(v), 1.7f), out[8] = __expf(v), out[9] = __sinf(v), out[10] = cbrtf(v), out[11] = atan2f(v, 2.0f);
}

// Double precision: sqrt, division and transcendental functions by way of device functions.
extern "C" __global__ void functions_f64(const double *x, double *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    double v = x[i], *out = y + 6 * i;
    out[0] = exp(v), out[1] = log(fabs(v)), out[2] = sin(v), out[3] = tanh(v), out[4] = sqrt(fabs(v)), out[5] = 1.0 / v;
}

// 16-bit arithmetic in pairs.
extern "C" __global__ void half_pairs(const half2 *a, const half2 *b, half2 *c, const __nv_bfloat162 *x, const __nv_bfloat162 *y, __nv_bfloat162 *z, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    c[i] = __hfma2(a[i], b[i], __hmax2(a[i], __hmul2(b[i], __float2half2_rn(0.5f))));
    z[i] = __hfma2(x[i], y[i], __hadd2(x[i], __hmin2(y[i], x[i])));
}

// Copies through shared memory with asynchronous copies in two stages.
extern "C" __global__ void pipelined_scale(const float4 *x, float4 *y, int tiles) {
    __shared__ float4 stage[2][64];
    int i = threadIdx.x;
    __pipeline_memcpy_async(&stage[0][i], &x[i], 16);
    __pipeline_commit();
    for (int t = 0; t < tiles; t++) {
        if (t + 1 < tiles) __pipeline_memcpy_async(&stage[(t + 1) & 1][i], &x[(t + 1) * 64 + i], 16);
        __pipeline_commit();
        __pipeline_wait_prior(1);
        __syncthreads();
        float4 v = stage[t & 1][63 - i];
        y[t * 64 + i] = make_float4(2 * v.x, 2 * v.y, 2 * v.z, 2 * v.w);
        __syncthreads();
    }
}

// A lock-free maximum of floats by compare-and-swap, and a ticket counter that wraps.
extern "C" __global__ void compare_and_swap(const float *x, unsigned *best, unsigned *tickets, unsigned long long *sum, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned old = *(volatile unsigned *)best;
    while (__uint_as_float(old) < x[i]) {
        unsigned seen = atomicCAS(best, old, __float_as_uint(x[i]));
        if (seen == old) break;
        old = seen;
    }
    atomicInc(tickets, 9u);
    atomicAdd(sum, (unsigned long long)i * i);
}

__constant__ float weights[8] = {0.5f, -1.0f, 2.0f, 0.25f, 4.0f, -0.125f, 1.0f, 3.0f};
__device__ int calls;

// A one-dimensional convolution with constant weights; counts its threads in a module variable.
extern "C" __global__ void convolve(const float *x, float *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&calls, 1);
    if (i + 8 > n) return;
    float s = 0;
#pragma unroll
    for (int k = 0; k < 8; k++) s += weights[k] * x[i + k];
    y[i] = s;
}

__constant__ float table[4] = {0.5f, -1.0f, 2.0f, 0.25f};

// A switch, an array indexed at run time, bit tricks.
extern "C" __global__ void odds_and_ends(const float *x, float *y, int *z, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i], r;
    switch (i % 7) {
        case 0: r = v * 1000.0f; break;
        case 1: r = sqrtf(v); break;
        case 2: r = fabsf(v) + 1e-20f; break;
        case 3: r = floorf(v); break;
        case 4: r = v / 3.0f; break;
        case 5: r = fmaf(v, v, 1.0f); break;
        default: r = 1.0f / v; break;
    }
    y[i] = r * table[i & 3];
    int local[8], sum = 0;
    for (int k = 0; k < 8; k++) local[k] = i * k;
    for (int k = 0; k < 8; k++) sum += local[(k * (i & 7)) & 7];
    z[i] = sum + __clz(i) + __brev(i) % 3 + __ffs(i) + __dp4a(i, i, 3) + (int)(i * 1000003LL >> 7);
}
