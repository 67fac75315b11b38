// Enough CUDA for a pointwise kernel to run on a CPU, its threads one after another: no shared memory, no synchronisation.
// `emulate.py` puts this directory where NVRTC has CUDA's own headers. Compile with -ffp-contract=off: operations round one by one.
#pragma once

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict

struct Index { unsigned x; };
static thread_local Index gridDim, blockDim, blockIdx, threadIdx;

typedef _Float16 __half;
typedef __bf16 __nv_bfloat16;

static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __half2float(__half value) { return static_cast<float>(value); }
static inline __half __float2half_rn(float value) { return static_cast<__half>(value); }
static inline float __bfloat162float(__nv_bfloat16 value) { return static_cast<float>(value); }
static inline __nv_bfloat16 __float2bfloat16_rn(float value) { return static_cast<__nv_bfloat16>(value); }

template <typename T, T... I> struct Positions {};

// Calls the kernel once per thread. Every parameter is 64 bits wide: a pointer or a long long.
template <typename... P, int... I>
void each_thread(void (*kernel)(P...), unsigned grid, unsigned block, const long long* arguments, Positions<int, I...>) {
    gridDim.x = grid;
    blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < block; ++threadIdx.x) kernel((P)arguments[I]...);
}

template <typename... P>
void launch_on_cpu(void (*kernel)(P...), unsigned grid, unsigned block, const long long* arguments) {
    each_thread(kernel, grid, block, arguments, __make_integer_seq<Positions, int, sizeof...(P)>{});
}
