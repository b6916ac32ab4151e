#include "runtime/stored.h"

#include <stdio.h>
#include <string.h>

#include "harness/model/layout.h"

bool stored_coded(const struct weight *weight)
{
    return weight->scale || weight->lut;
}

static uint64_t data_bytes(const struct weight *weight)
{
    return weight_row_bytes(weight) * weight->rows;
}

static uint32_t scales_per_row(const struct weight *weight)
{
    return weight->cols / weight->block;
}

size_t stored_sides(const struct weight *weight, struct side sides[STORED_SIDES])
{
    size_t n = 0;
    if (weight->lut)
        sides[n++] = (struct side){"codebook entries", "entry", "codebook", weight->lut, weight->rows / WEIGHT_BOOK_ROWS,
                                   weight->format == WEIGHT_K8 ? 256 : 16};
    if (weight->scale)
        sides[n++] = (struct side){"scales", "block", "row", weight->scale, weight->rows, scales_per_row(weight)};
    if (weight->bias)
        sides[n++] = (struct side){"biases", "block", "row", weight->bias, weight->rows, scales_per_row(weight)};
    return n;
}

static bool same_side(const struct side *a, const struct side *b)
{
    return !memcmp(a->halves, b->halves, (size_t)a->rows * a->cols * sizeof *a->halves);
}

bool stored_alike(const struct weight *a, const struct weight *b)
{
    return a->format == b->format && a->rows == b->rows && a->cols == b->cols && a->block == b->block;
}

bool stored_equal(const struct weight *a, const struct weight *b)
{
    struct side left[STORED_SIDES], right[STORED_SIDES];
    if (!stored_alike(a, b) || memcmp(a->data, b->data, data_bytes(a)))
        return false;
    const size_t n = stored_sides(a, left);
    stored_sides(b, right);
    for (size_t i = 0; i < n; i++)
        if (!same_side(&left[i], &right[i]))
            return false;
    return true;
}

// Every codebook (or row of scales) that differs is the one before it.
bool stored_moved_down(const struct side *found, const struct side *wanted)
{
    const size_t row = found->cols * sizeof *found->halves;
    bool moved = false;
    for (uint32_t r = 0; r < found->rows; r++) {
        const uint64_t at = (uint64_t)r * found->cols;
        if (!memcmp(found->halves + at, wanted->halves + at, row))
            continue;
        if (!r || memcmp(found->halves + at, wanted->halves + at - found->cols, row))
            return false;
        moved = true;
    }
    return moved;
}

// Rows of one matrix of one expert, where the experts lie in one tensor; else 0.
static uint32_t expert_rows(const struct config *config, const struct weight *weight)
{
    const struct slot *slot = layout_slot(config, weight->name);
    if (!slot || slot->coding != CODING_EXPERT || slot->shape[0] != SIZE_E)
        return 0;
    return slot->shape[1] == SIZE_2FM ? config->expert_width : (uint32_t)size_value(config, slot->shape[1]);
}

// The index of `part` among the n matrices of `whole`; n when it is none of them.
static uint32_t find_matrix(const struct weight *whole, const struct weight *part, uint32_t n)
{
    for (uint32_t j = 0; j < n; j++) {
        const struct weight other = weight_rows(whole, j * part->rows, part->rows);
        if (stored_equal(part, &other))
            return j;
    }
    return n;
}

bool stored_moved_experts(const struct config *config, const struct weight *found, const struct weight *wanted,
                          char text[128])
{
    const uint32_t rows = expert_rows(config, found);
    if (!rows || !stored_alike(found, wanted) || (found->lut && rows % WEIGHT_BOOK_ROWS))
        return false;
    const uint32_t n = found->rows / rows, per_expert = n / config->experts;
    uint32_t moved = 0, exchanged = 0, to = 0, from = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct weight part = weight_rows(found, i * rows, rows), own = weight_rows(wanted, i * rows, rows);
        if (stored_equal(&part, &own))
            continue;
        const uint32_t j = find_matrix(wanted, &part, n);
        if (j == n)
            return false;
        exchanged += per_expert == 2 && j == (i ^ 1);
        to = moved ? to : i / per_expert;
        from = moved++ ? from : j / per_expert;
    }
    if (!moved)
        return false;
    if (exchanged == moved)
        snprintf(text, 128, "gate and up are exchanged in %u of %u experts, expert %u the first", moved / 2,
                 config->experts, to);
    else
        snprintf(text, 128, "expert %u holds the values of expert %u; %u of %u matrices are another one's", to, from, moved,
                 n);
    return true;
}
