// Guidance combine + flow-Euler update, one launch for a batch whose rows are at different steps.
//
//   out = x + (sigma_next[row] - sigma[row]) * v
//   v   = v_pos                                             without guidance, or where guidance[row] == 1
//       = v_neg + guidance[row] * (v_pos - v_neg)           otherwise
//
// Everything that differs between steps is read from device memory, so a captured CUDA graph stays right when it is replayed.
// Arithmetic is float32 with every operation rounded on its own (no contraction into FMA): the kernel is memory bound, so that
// costs nothing, and the result is the bits that the eager torch reference gives.
//
// Compiled per shape; launch.py defines:
//   X_TYPE, V_TYPE   float, __half or __nv_bfloat16: latents (and output), predictions
//   ROW_ELEMENTS     elements of one batch entry: the division that finds the row is by a constant
//   VECTOR           elements per thread and turn; divides ROW_ELEMENTS, so no vector spans two rows
//   GUIDED           1 with v_neg and guidance, 0 without (both are then null)
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// One vector: 16-byte loads and stores whenever it is at least that long.
template <typename T>
struct alignas(sizeof(T) * VECTOR < 16 ? sizeof(T) * VECTOR : 16) Vector {
    T lane[VECTOR];
};

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ __forceinline__ void narrow(float value, float& out) { out = value; }
__device__ __forceinline__ void narrow(float value, __half& out) { out = __float2half_rn(value); }
__device__ __forceinline__ void narrow(float value, __nv_bfloat16& out) { out = __float2bfloat16_rn(value); }

extern "C" __global__ void guidance_step(
    Vector<X_TYPE>* __restrict__ out,
    const Vector<X_TYPE>* __restrict__ x,
    const Vector<V_TYPE>* __restrict__ v_pos,
    const Vector<V_TYPE>* __restrict__ v_neg,
    const float* __restrict__ sigma,
    const float* __restrict__ sigma_next,
    const float* __restrict__ guidance,
    long long vectors)
{
    const long long stride = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < vectors; i += stride) {
        const long long row = i / (ROW_ELEMENTS / VECTOR);
        const float delta = __fsub_rn(sigma_next[row], sigma[row]);
        const Vector<X_TYPE> latent = x[i];
        const Vector<V_TYPE> positive = v_pos[i];
#if GUIDED
        const float scale = guidance[row];
        const bool combine = scale != 1.0f;
        // A row at guidance 1 does not read v_neg: its entry may hold anything.
        Vector<V_TYPE> negative = positive;
        if (combine) negative = v_neg[i];
#endif
        Vector<X_TYPE> result;
#pragma unroll
        for (int lane = 0; lane < VECTOR; ++lane) {
            float velocity = widen(positive.lane[lane]);
#if GUIDED
            if (combine) {
                const float base = widen(negative.lane[lane]);
                velocity = __fadd_rn(base, __fmul_rn(scale, __fsub_rn(velocity, base)));
            }
#endif
            narrow(__fadd_rn(widen(latent.lane[lane]), __fmul_rn(delta, velocity)), result.lane[lane]);
        }
        out[i] = result;
    }
}
