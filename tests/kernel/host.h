// What digest.cu takes from CUDA, for a C++ compiler: threads are run one after the other.
#pragma once

#include <cstdint>

#define __device__
#define __forceinline__ inline
#define __global__
#define __launch_bounds__(threads)

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

// The upper half of high:low shifted left by bits modulo 32 is the lower one shifted right.
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t bits) {
    return static_cast<uint32_t>(((static_cast<uint64_t>(high) << 32) | low) >> (bits % 32));
}

// Four bytes of high:low, each chosen by a digit of the selector.
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
    const uint64_t bytes = (static_cast<uint64_t>(high) << 32) | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++) {
        const uint32_t chosen = (selector >> (4 * i)) & 7;
        result |= static_cast<uint32_t>((bytes >> (8 * chosen)) & 0xff) << (8 * i);
    }
    return result;
}

struct Dimensions {
    uint32_t x;
};

inline Dimensions gridDim, blockDim, blockIdx, threadIdx;
