#include "runtime/codebook.h"

#include <assert.h>
#include <string.h>

#include "harness/base/floating.h"
#include "harness/base/half.h"

// --- values in order

// Bits whose order as unsigned numbers is that of the floats.
static uint32_t key_of(float value)
{
    const uint32_t bits = float_to_bits(value);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

static float value_of(uint32_t key)
{
    return float_from_bits(key >> 31 ? key & 0x7FFFFFFFu : ~key);
}

// By bytes, the lowest first: four passes, so the result lies where the keys were.
static void sort_keys(uint32_t *keys, uint32_t *spare, uint32_t n)
{
    for (int shift = 0; shift < 32; shift += 8) {
        uint32_t places[256] = {0}, next = 0;
        for (uint32_t i = 0; i < n; i++)
            places[keys[i] >> shift & 0xFF]++;
        for (int byte = 0; byte < 256; byte++) {
            const uint32_t count = places[byte];
            places[byte] = next;
            next += count;
        }
        for (uint32_t i = 0; i < n; i++)
            spare[places[keys[i] >> shift & 0xFF]++] = keys[i];
        uint32_t *sorted = spare;
        spare = keys;
        keys = sorted;
    }
}

// --- entries

static void set_borders(struct codebook *book, const double *centres)
{
    for (uint32_t j = 0; j + 1 < book->n; j++)
        book->borders[j] = (centres[j] + centres[j + 1]) / 2;
}

static void move_centres(const struct codebook *book, const uint32_t *keys, uint32_t n, double *centres)
{
    uint32_t i = 0;
    for (uint32_t j = 0; j < book->n; j++) {
        const uint32_t first = i;
        double sum = 0;
        while (i < n && (j + 1 == book->n || (double)value_of(keys[i]) <= book->borders[j]))
            sum += (double)value_of(keys[i++]);
        if (i > first)
            centres[j] = sum / (i - first);
    }
}

void codebook_fit(struct codebook *book, uint32_t n_entries, const float *values, uint32_t n, uint32_t *room)
{
    double centres[CODEBOOK_ENTRIES_MAX];
    assert(n && n_entries >= 2 && n_entries <= CODEBOOK_ENTRIES_MAX);
    for (uint32_t i = 0; i < n; i++)
        room[i] = key_of(values[i]);
    sort_keys(room, room + n, n);
    book->n = n_entries;
    for (uint32_t j = 0; j < n_entries; j++)
        centres[j] = (double)value_of(room[(uint64_t)j * (n - 1) / (n_entries - 1)]);
    for (int round = 0; round < CODEBOOK_ROUNDS; round++) {
        set_borders(book, centres);
        move_centres(book, room, n, centres);
    }
    for (uint32_t j = 0; j < n_entries; j++) {
        book->halves[j] = half_from_float((float)centres[j]);
        book->entries[j] = half_to_float(book->halves[j]);
        centres[j] = (double)book->entries[j];
    }
    set_borders(book, centres);
}

// Without a branch that values would decide: on weights it could not be foretold.
uint32_t codebook_index(const struct codebook *book, float value)
{
    uint32_t low = 0, n = book->n - 1; // the answer is among low ... low + n
    for (; n > 1; n -= n / 2) {
        const bool above = book->borders[low + n / 2 - 1] < (double)value;
        low += above * (n / 2);
    }
    return low + (book->borders[low] < (double)value);
}
