// Which instruction sets were compiled in, and which of them this processor has.
#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#define SMIDGEN_X86 1
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace smidgen {
namespace {

bool always() { return true; }

#ifdef SMIDGEN_X86
struct Features {
    bool avx2 = false, avxvnni = false, avx512 = false, avx512bf16 = false;
    Features() {
        unsigned a, b, c, d;
        if (!__get_cpuid(1, &a, &b, &c, &d)) return;
        const bool xsave = c & (1u << 27), avx = c & (1u << 28), fma = c & (1u << 12), f16c = c & (1u << 29);
        if (!xsave || !avx) return;
        unsigned low, high;  // what the operating system saves at a switch
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        if ((low & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        avx2 = fma && f16c && (b & (1u << 5));
        const bool f = b & (1u << 16), dq = b & (1u << 17), bw = b & (1u << 30), vl = b & (1u << 31);
        const bool vnni = c & (1u << 11), saved = (low & 0xe0) == 0xe0;
        avx512 = avx2 && saved && f && dq && bw && vl && vnni;
#if defined(SMIDGEN_EMULATED)
        avxvnni = avx2, avx512bf16 = avx512;  // a test build: their instructions are replaced by what they mean
#else
        if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return;
        avxvnni = avx2 && (a & (1u << 4)), avx512bf16 = avx512 && (a & (1u << 5));
#endif
    }
};
const Features& features() {
    static const Features found;
    return found;
}
bool has_avx2() { return features().avx2; }
bool has_avxvnni() { return features().avxvnni; }
bool has_avx512() { return features().avx512; }
bool has_avx512bf16() { return features().avx512bf16; }
#endif

#if defined(__aarch64__)
bool has_dotprod_and_fp16() {
#if defined(__linux__)
    constexpr unsigned long kHalfFloats = 1ul << 10, kDotProducts = 1ul << 20;  // HWCAP_ASIMDHP, HWCAP_ASIMDDP
    constexpr unsigned long kNeeded = kHalfFloats | kDotProducts;
    return (getauxval(AT_HWCAP) & kNeeded) == kNeeded;
#else
    return true;  // every Apple processor with this architecture
#endif
}
#endif

struct Entry {
    const char* name;
    const Kernels* (*table)();
    bool (*available)();
};

// From the slowest to the fastest.
const Entry kEntries[] = {
    {"scalar", kernels_scalar, always},
#ifdef SMIDGEN_X86
    {"avx2", kernels_avx2, has_avx2},
#ifdef SMIDGEN_HAS_AVXVNNI
    {"avxvnni", kernels_avxvnni, has_avxvnni},
#endif
    {"avx512", kernels_avx512, has_avx512},
#ifdef SMIDGEN_HAS_AVX512BF16
    {"avx512bf16", kernels_avx512bf16, has_avx512bf16},
#endif
#endif
#if defined(__aarch64__)
    {"neon", kernels_neon, has_dotprod_and_fp16},
#endif
};

}  // namespace

int isa_count() { return int(sizeof(kEntries) / sizeof(kEntries[0])); }
const char* isa_name(int index) { return index >= 0 && index < isa_count() ? kEntries[index].name : nullptr; }
bool isa_available(int index) { return index >= 0 && index < isa_count() && kEntries[index].available(); }
const Kernels* isa_kernels(int index) { return kEntries[index].table(); }
int best_isa() {
    int best = 0;
    for (int i = 0; i < isa_count(); i++)
        if (isa_available(i)) best = i;
    return best;
}

}  // namespace smidgen
