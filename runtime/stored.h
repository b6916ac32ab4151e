// stored: what a bundle holds of a weight, byte by byte: elements or codes, and the halves beside the codes.
#ifndef ASSAY_STORED_H
#define ASSAY_STORED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/model/model.h"

// Scales, biases or codebooks, as a matrix [rows, cols].
struct side {
    const char *what, *column, *line; // "codebook entries", "entry", "codebook"
    const uint16_t *halves;
    uint32_t rows, cols;
};
enum { STORED_SIDES = 2 };
size_t stored_sides(const struct weight *weight, struct side sides[STORED_SIDES]); // how many; 0 without codes

bool stored_coded(const struct weight *weight);                         // codes, not elements
bool stored_alike(const struct weight *a, const struct weight *b);      // of one format, shape and block
bool stored_equal(const struct weight *a, const struct weight *b);      // alike, and of the same bytes
bool stored_moved_down(const struct side *found, const struct side *wanted); // rows that differ are the one before

// Are all the matrices that differ other ones of the same tensor: experts exchanged, or gate with up, where the experts
// lie in one tensor? Then `text` says which.
bool stored_moved_experts(const struct config *config, const struct weight *found, const struct weight *wanted,
                          char text[128]);

#endif
