/*
 * bgemm.c
 *     Packs weights for the bfloat16 products, and says whether they can be used on this processor.
 */
#include "bgemm.h"

#include <string.h>

bool
ia3_bgemm_available(void)
{
#if defined(__AVX512BF16__)
    /* With AMX oneDNN is faster, provided that Linux grants its use and IA3_CPU_ISA does not exclude it. */
    unsigned isa = (unsigned) dnnl_get_effective_cpu_isa();
    return (isa & dnnl_cpu_isa_avx512_core_amx) != dnnl_cpu_isa_avx512_core_amx;
#else
    return false;
#endif
}

void
ia3_bgemm_pack(uint16_t *packed, const uint16_t *plain, int k, int n, int64_t row, int64_t col)
{
    for (int first = 0; first < n; first += IA3_STRIP) {
        int columns = n - first < IA3_STRIP ? n - first : IA3_STRIP;
        for (int i = 0; i < k; i += 2, packed += 2 * IA3_STRIP) {
            const uint16_t *from = plain + i * row + first * col;
            for (int j = 0; j < columns; j++) {
                packed[2 * j] = from[j * col];
                packed[2 * j + 1] = from[row + j * col];
            }
            memset(packed + 2 * columns, 0, 4 * (size_t) (IA3_STRIP - columns));
        }
    }
}

void
ia3_bgemm_unpack(uint16_t *plain, const uint16_t *packed, int k, int n, int64_t row, int64_t col)
{
    for (int first = 0; first < n; first += IA3_STRIP) {
        int columns = n - first < IA3_STRIP ? n - first : IA3_STRIP;
        for (int i = 0; i < k; i += 2, packed += 2 * IA3_STRIP) {
            uint16_t *to = plain + i * row + first * col;
            for (int j = 0; j < columns; j++) {
                to[j * col] = packed[2 * j];
                to[row + j * col] = packed[2 * j + 1];
            }
        }
    }
}

#if !defined(__AVX512BF16__)
void
ia3_bgemm_run(const ia3_bgemm *g)
{
    __builtin_unreachable(); /* not available */
}
#endif
