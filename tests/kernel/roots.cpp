// Prints the root of the fs-verity tree over each file, all of them hashed in one launch for each level,
// by the kernel's source on this machine's processor.
//
// usage: roots GRID FILE...    (GRID: how many blocks of threads there are)
//
// Every buffer has exactly the bytes that the kernel may read or write, so that a sanitizer sees one
// that is too many. Files without bytes have no blocks and are refused.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

#include "host.h"

#include "../../src/device/cuda/digest.cu"

using Bytes = std::unique_ptr<u8, decltype(&std::free)>;

static const u64 NODE = 32;

static Bytes allocate(u64 len) { return Bytes(static_cast<u8 *>(std::malloc(len)), std::free); }

static void launch(u32 grid, const std::vector<Range> &ranges, u32 blocks, u8 *digests) {
    gridDim.x = grid;
    blockDim.x = 3;
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) {
            fsverity_blocks(ranges.data(), ranges.size(), blocks, reinterpret_cast<uint4 *>(digests));
        }
    }
}

int main(int argc, char **argv) {
    const u32 grid = std::atoi(argv[1]);
    std::vector<Bytes> buffers;
    std::vector<u64> lens;
    for (int i = 2; i < argc; i++) {
        std::ifstream file(argv[i], std::ios::binary);
        const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
        if (bytes.empty()) return 2;
        buffers.push_back(allocate(bytes.size()));
        std::copy(bytes.begin(), bytes.end(), buffers.back().get());
        lens.push_back(bytes.size());
    }
    std::vector<u32> is_root(lens.size());
    while (std::count(is_root.begin(), is_root.end(), 0)) {
        std::vector<Range> ranges;
        u32 blocks = 0;
        for (size_t i = 0; i < lens.size(); i++) {
            ranges.push_back({buffers[i].get(), lens[i], blocks, is_root[i]});
            blocks += (lens[i] + BLOCK - 1) / BLOCK;
        }
        Bytes digests = allocate(blocks * NODE);
        launch(grid, ranges, blocks, digests.get());
        const u8 *from = digests.get();
        for (size_t i = 0; i < lens.size(); i++) {
            lens[i] = (lens[i] + BLOCK - 1) / BLOCK * NODE;
            buffers[i] = allocate(lens[i]);
            std::copy(from, from + lens[i], buffers[i].get());
            from += lens[i];
            is_root[i] = lens[i] == NODE;
        }
    }
    for (const Bytes &root : buffers) {
        for (u64 i = 0; i < NODE; i++) std::printf("%02x", root.get()[i]);
        std::printf("\n");
    }
}
