// codebook: the k-means formats of experts, "km8" and "km4" of zoo.md 2.6: 32 output rows of one expert share 256 or
// 16 halves, and a code is the index of one.
//
//   s        the values of the 32 rows in ascending order, -0 before +0
//   start    c[j] = s[floor(j (n - 1) / (L - 1))]: quantiles, both ends included
//   10 times  borders m[j] = (c[j] + c[j+1]) / 2; value v belongs to the entry whose index is the number of borders
//            below v (searchsorted: a tie goes to the lower one); c[j] = mean of its values, their sum taken ascending
//            from +0, then divided; an entry without values stays
//   end      entries RN16(RN32(c)); a code is the number of borders of these halves below v
//
// Means and borders in double; the borders of halves are exact.
#ifndef ASSAY_CODEBOOK_H
#define ASSAY_CODEBOOK_H

#include <stdint.h>

enum { CODEBOOK_ENTRIES_MAX = 256, CODEBOOK_ROUNDS = 10 };

struct codebook {
    uint32_t n; // entries
    uint16_t halves[CODEBOOK_ENTRIES_MAX];
    float entries[CODEBOOK_ENTRIES_MAX]; // the halves; infinite where they overflowed
    double borders[CODEBOOK_ENTRIES_MAX - 1];
};

// n >= 1 finite values; n_entries 2 to 256; room [2 n].
void codebook_fit(struct codebook *book, uint32_t n_entries, const float *values, uint32_t n, uint32_t *room);
uint32_t codebook_index(const struct codebook *book, float value);

#endif
