// Kernels that use shared memory as kernels do; kernels.ptx is what NVRTC 12.9 makes of them for compute_80.

typedef unsigned int u32;

// y[block] = the sum of the block's part of x, of n numbers a thread.
extern "C" __global__ void reduction(const float* x, float* y, int n) {
    __shared__ float part[256];
    float sum = 0;
    for (int i = 0; i < n; i++) sum += x[(blockIdx.x * n + i) * 256 + threadIdx.x];
    part[threadIdx.x] = sum;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    if (threadIdx.x == 0) y[blockIdx.x] = part[0];
}

// c = a b, n by n, in tiles of 16 by 16.
extern "C" __global__ void matmul(const float* a, const float* b, float* c, int n) {
    __shared__ float left[16][16], right[16][16];
    int x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * 16 + y, column = blockIdx.x * 16 + x;
    float sum = 0;
    for (int k = 0; k < n; k += 16) {
        left[y][x] = a[row * n + k + x];
        right[y][x] = b[(k + y) * n + column];
        __syncthreads();
        #pragma unroll
        for (int i = 0; i < 16; i++) sum += left[y][i] * right[i][x];
        __syncthreads();
    }
    c[row * n + column] = sum;
}

__device__ void copy(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

__device__ void load(u32* r, u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

__device__ void load_transposed(u32* r, u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

__device__ void multiply(float* d, const u32* a, const u32* b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// c = a b: bf16 into f32, n by n, in tiles of 128 by 128 by 32 with two buffers; 8 warps of 64 by 32.
// Rows of 16-byte units are swizzled: no bank conflicts.
extern "C" __global__ void gemm(const unsigned short* a, const unsigned short* b, float* c, int n) {
    __shared__ __align__(128) unsigned char buffer[2][16384];
    u32 base = (u32)__cvta_generic_to_shared(buffer);
    int t = threadIdx.x, lane = t % 32, warp = t / 32;
    int row0 = blockIdx.y * 128, column0 = blockIdx.x * 128, m0 = warp / 4 * 64, n0 = warp % 4 * 32;
    float sum[4][4][4] = {};
    auto fetch = [&](int k, int into) {
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            int i = half * 256 + t, r = i / 4, u = i % 4;
            copy(base + into * 16384 + r * 64 + (u ^ (r / 2 % 4)) * 16, a + (row0 + r) * n + k + u * 8);
        }
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            int i = half * 256 + t, r = i / 16, u = i % 16;
            copy(base + into * 16384 + 8192 + r * 256 + (u ^ (r % 8)) * 16, b + (k + r) * n + column0 + u * 8);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    fetch(0, 0);
    for (int k = 0; k < n; k += 32) {
        int now = k / 32 % 2;
        if (k + 32 < n) {
            fetch(k + 32, now ^ 1);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        __syncthreads();
        #pragma unroll
        for (int step = 0; step < 2; step++) {
            u32 left[4][4], right[2][4];
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                int r = m0 + i * 16 + lane % 16, u = step * 2 + lane / 16;
                load(left[i], base + now * 16384 + r * 64 + (u ^ (r / 2 % 4)) * 16);
            }
            #pragma unroll
            for (int j = 0; j < 2; j++) {
                int r = step * 16 + lane % 16, u = n0 / 8 + j * 2 + lane / 16;
                load_transposed(right[j], base + now * 16384 + 8192 + r * 256 + (u ^ (r % 8)) * 16);
            }
            #pragma unroll
            for (int i = 0; i < 4; i++)
                #pragma unroll
                for (int j = 0; j < 4; j++) multiply(sum[i][j], left[i], right[j / 2] + j % 2 * 2);
        }
        __syncthreads();
    }
    #pragma unroll
    for (int i = 0; i < 4; i++)
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            int r = row0 + m0 + i * 16 + lane / 4, q = column0 + n0 + j * 8 + lane % 4 * 2;
            *(float2*)(c + r * n + q) = make_float2(sum[i][j][0], sum[i][j][1]);
            *(float2*)(c + (r + 8) * n + q) = make_float2(sum[i][j][2], sum[i][j][3]);
        }
}
