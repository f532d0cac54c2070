// SHA-256 of 4096-byte blocks: the only kernel of the fs-verity digest on a GPU.
//
// Every level of a tree consists of such hashes: the leaves hash the data, and each level above
// hashes the digests below. So one kernel serves all levels. It hashes the blocks of several byte
// ranges, the last block of each padded with zeros. One thread hashes one block, without shared
// memory and without synchronisation. The integer units are the limit (see CODE.md); memory runs at
// a quarter of its own limit.
//
// build.py makes digest.ptx of this file. Tests also compile it as C++, with tests/kernel/host.h in
// place of CUDA.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

// A byte range to hash, block by block. `bytes` is a multiple of 16, `len` at least 1.
struct Range {
    const u8 *bytes;
    u64 len;
    // The number of the range's first block, counted over all ranges.
    u32 first_block;
    // Not 0 if the range is the root of a tree: 32 bytes, which are passed on unchanged. So trees
    // of different heights can be hashed together.
    u32 is_root;
};

enum : u32 { BLOCK = 4096, CHUNK = 64 };

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes (FIPS 180-4, 4.2.2).
#define ROUND_CONSTANTS \
    { \
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, \
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, \
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, \
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, \
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, \
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, \
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, \
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2, \
    }

__device__ __forceinline__ u32 rotate_right(u32 x, u32 bits) { return __funnelshift_r(x, x, bits); }

__device__ __forceinline__ u32 swap_bytes(u32 x) { return __byte_perm(x, 0, 0x0123); }

// The compression function (FIPS 180-4, 6.2.2). `w` is the message, and is overwritten by its
// schedule.
__device__ __forceinline__ void compress(u32 (&state)[8], u32 (&w)[16]) {
    constexpr u32 K[64] = ROUND_CONSTANTS;
    u32 a = state[0], b = state[1], c = state[2], d = state[3];
    u32 e = state[4], f = state[5], g = state[6], h = state[7];
#pragma unroll
    for (int t = 0; t < 64; t++) {
        if (t >= 16) {
            const u32 w15 = w[(t + 1) % 16], w2 = w[(t + 14) % 16];
            const u32 s0 = rotate_right(w15, 7) ^ rotate_right(w15, 18) ^ (w15 >> 3);
            const u32 s1 = rotate_right(w2, 17) ^ rotate_right(w2, 19) ^ (w2 >> 10);
            w[t % 16] += s0 + w[(t + 9) % 16] + s1;
        }
        const u32 sum1 = rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25);
        const u32 choice = (e & f) ^ (~e & g);
        const u32 sum0 = rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22);
        const u32 majority = (a & b) ^ (a & c) ^ (b & c);
        const u32 t1 = h + sum1 + choice + K[t] + w[t % 16];
        h = g, g = f, f = e, e = d + t1;
        d = c, c = b, b = a, a = t1 + sum0 + majority;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

// Loads the 64 bytes at `bytes`: the first `len` from memory, and zeros for the rest.
__device__ __forceinline__ void load(u32 (&w)[16], const u8 *bytes, u32 len) {
    if (len >= CHUNK) {
        const uint4 *words = reinterpret_cast<const uint4 *>(bytes);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint4 four = words[i];
            w[4 * i] = swap_bytes(four.x), w[4 * i + 1] = swap_bytes(four.y);
            w[4 * i + 2] = swap_bytes(four.z), w[4 * i + 3] = swap_bytes(four.w);
        }
    } else {
#pragma unroll
        for (u32 i = 0; i < 16; i++) {
            w[i] = 0;
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                if (4 * i + j < len) w[i] |= static_cast<u32>(bytes[4 * i + j]) << (24 - 8 * j);
            }
        }
    }
}

// Computes the digest of the block at `bytes`, of which the first `len` bytes exist.
__device__ __forceinline__ void hash_block(u32 (&state)[8], const u8 *bytes, u32 len) {
    u32 w[16];
#pragma unroll 1
    for (u32 at = 0; at < BLOCK; at += CHUNK) {
        load(w, bytes + at, len > at ? len - at : 0);
        compress(state, w);
    }
    // Padding and length are the same for every block, so the compiler computes the schedule.
    w[0] = 0x80000000;
#pragma unroll
    for (int i = 1; i < 15; i++) w[i] = 0;
    w[15] = BLOCK * 8;
    compress(state, w);
}

// Finds the range of the block: the last range that does not begin after the block.
__device__ __forceinline__ const Range *find(const Range *ranges, u32 count, u32 block) {
    u32 low = 0;
    while (count - low > 1) {
        const u32 middle = low + (count - low) / 2;
        if (ranges[middle].first_block <= block) low = middle;
        else count = middle;
    }
    return ranges + low;
}

// Writes the digests of all `blocks` blocks of `count` ranges, one after another.
extern "C" __global__ void __launch_bounds__(128)
fsverity_blocks(const Range *ranges, u32 count, u32 blocks, uint4 *digests) {
    const u32 threads = gridDim.x * blockDim.x;
    for (u32 block = blockIdx.x * blockDim.x + threadIdx.x; block < blocks; block += threads) {
        const Range *range = find(ranges, count, block);
        uint4 *digest = digests + 2 * static_cast<u64>(block);
        if (range->is_root) {
            const uint4 *root = reinterpret_cast<const uint4 *>(range->bytes);
            digest[0] = root[0], digest[1] = root[1];
            continue;
        }
        const u64 start = static_cast<u64>(block - range->first_block) * BLOCK;
        const u64 left = range->len - start;
        // The square roots of the first 8 primes (FIPS 180-4, 5.3.3).
        u32 state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
        hash_block(state, range->bytes + start, left < BLOCK ? left : u64{BLOCK});
        digest[0] = make_uint4(swap_bytes(state[0]), swap_bytes(state[1]), swap_bytes(state[2]),
                               swap_bytes(state[3]));
        digest[1] = make_uint4(swap_bytes(state[4]), swap_bytes(state[5]), swap_bytes(state[6]),
                               swap_bytes(state[7]));
    }
}
