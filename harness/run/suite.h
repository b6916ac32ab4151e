// suite: which prompts, which positions, which checks. JSON (`assay-suite/1`), or CSV (`id,text`) when the name ends
// in .csv.
//
// {"schema": "assay-suite/1", "name": ..., "description": ...?, "checks": ["weights"]?, "cases": [
//    {"id": ..., "domain": ...?, "text": ... | "tokens": [ids], "special": bool?, "checks": [...]?,
//     "positions": [...]?, "seeded": n?, "rollout": n?, "state_every": n?,
//     "answer": {"ids": [...], "margins": [...]?, "source": ...}?}, ...]}
// special: the tokenizer's template (BOS) is applied to the text; true unless given. Without "checks" a case gets
// those of a prompt: sweep, seeded, rollout, state. A key that its checks do not use is refused, an unknown one too.
#ifndef ASSAY_SUITE_H
#define ASSAY_SUITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/model/config.h"
#include "harness/model/tokenizer.h"

#define SUITE_SCHEMA "assay-suite/1"

enum check { // in the order of a report; design.md 5
    CHECK_WEIGHTS,
    CHECK_SWEEP,
    CHECK_SEEDED,
    CHECK_ROLLOUT,
    CHECK_FLIPS,
    CHECK_DISTANCE,
    CHECK_STATE,
    CHECK_DETERMINISM,
    CHECK_PATHS,
    CHECK_COUNT
};
const char *check_name(enum check check);
int check_parse(const char *name, enum check *check, struct error *error); // ERROR_INPUT lists the known names

enum { SUITE_SWEEP_POSITIONS = 16, SUITE_SEEDED_TOKENS = 4, SUITE_ROLLOUT_TOKENS = 24 };

// What a known answer says of a greedy continuation (suites of published transcripts).
struct suite_answer {
    uint32_t n;
    uint32_t *ids;      // [n] greedy continuation
    double *margins;    // [n] softmax(top1) - softmax(top2) of the publisher's fp32 oracle, or NULL
    const char *source; // where it was published
};

struct suite_case {
    const char *id;     // unique, upper and lower case alike; [A-Za-z0-9._-]+, at most 64: it becomes a file name
    const char *domain; // free word for the report, "" when not given
    uint32_t n;
    uint32_t *tokens; // [n], BOS included when the tokenizer adds one
    bool checks[CHECK_COUNT];
    uint32_t n_positions;
    uint32_t *positions;         // sweep positions, ascending; the first 16 (or all of a shorter case) unless named
    uint32_t seeded;             // last tokens decoded from the reference's state; < n; 0 without CHECK_SEEDED
    uint32_t rollout;            // tokens generated; 0 without CHECK_ROLLOUT
    uint32_t state_every;        // snapshots of conv and delta at its multiples; 0: none, always without CHECK_STATE
    struct suite_answer *answer; // NULL unless the suite publishes one; rollout >= answer->n
};

struct suite {
    struct arena arena;
    char *path;
    const char *name;
    size_t n_cases;
    struct suite_case *cases;
    bool checks[CHECK_COUNT]; // asked for by any case, or by the suite itself (weights)
};

// `tokenizer` may be NULL when every case gives tokens. CSV prompts get all checks of a prompt: sweep, seeded,
// rollout, state. Refused, with case and field: empty prompt, id out of [0, V), unknown check or key, duplicate case
// id, a position or a seeded count outside the case, more positions (rollout included) than config.max_positions, no
// cases at all (ERROR_UNJUDGED). A case of one token without "checks" has no seeded check: nothing could be
// prefilled.
int suite_open(struct suite **suite, const char *path, const struct config *config, struct tokenizer *tokenizer,
               struct error *error);
void suite_close(struct suite **suite);

// Token ids "1,2,3" or "@file" (commas or white space), for --tokens. In the arena.
int suite_parse_tokens(struct arena *arena, const char *argument, const struct config *config, uint32_t **tokens,
                       size_t *n, struct error *error);

#endif
