// measure: from the traces of one case to the rows of a comparison. The part of compare.c that reads tensors.
#ifndef ASSAY_MEASURE_H
#define ASSAY_MEASURE_H

#include "harness/judge/compare.h"
#include "harness/judge/join.h"

struct routing_rule;

// A comparison being built. Rooms are made once for the whole suite (compare.c), so nothing here allocates but for states.
struct measuring {
    const struct compare_request *request;
    struct comparison *comparison;
    uint32_t case_index;
    size_t room;                      // of comparison->positions
    double *kl[ARM_COUNT], *rms[ARM_COUNT]; // [room] per row of `distance`
    double *kernel;                   // [room] RMS of a row of candidate - expected
    double squares[ARM_COUNT], noise_squares[ARM_COUNT];
    double kernel_squares;            // of candidate - expected
    float *reference_row, *arm_row, *expected_row; // [V]
    double *probabilities;            // [V] softmax of the reference's row
    unsigned char *seen[CHECK_COUNT]; // [V] reference top-1 ids met
    struct routing_rule *rules;       // [comparison->n_layers]
    struct measured_route *measured;  // [comparison->n_routes] what the depth of each is made of
    size_t route_room;
    double *routing_scratch;          // [4 E]
};

// Every row of a whole run that serves a check, its rollout, and its end states.
int measure_whole(struct measuring *m, const struct joined *joined, struct error *error);
// Every row of a seeded decode and the states after it.
int measure_seeded(struct measuring *m, const struct joined *joined, struct error *error);
// The candidate's whole run against another of the same tokens, as record.h names them. Engines without batches leave no
// trace of the last two.
enum second_run { SECOND_AGAIN, SECOND_RESTORED, SECOND_BATCH, SECOND_CHUNK, SECOND_COUNT };
int measure_second_run(struct measuring *m, const struct trace *whole, enum check check, enum second_run way,
                       struct error *error);
// Routers (measure_routing.c). Open: the layers with experts, of the request's model or, without one, of `trace`; none
// in a dense model. A trace's model_type tells how Qwen3.5-MoE chooses; how LFM2-MoE does, only the model tells (its
// bias). ERROR_RUNTIME: out of memory.
int measure_routing_open(struct measuring *m, const struct trace *trace, struct error *error);
// Every row of the traces. ERROR_CONTRACT: other numbers of experts than the model's.
int measure_routing(struct measuring *m, const struct joined *joined, bool seeded, struct error *error);
// After the last row: noise, depths, what may have caused each flip, and which states follow ties.
void measure_routing_finish(struct measuring *m);

// Snapshots (measure_snapshots.c) of the recurrent states where the reference has them, and the keys and values between.
int measure_snapshots(struct measuring *m, const struct joined *joined, struct error *error);

// What the suite declares and the candidate did not give.
void measure_missing(struct measuring *m, enum check check, uint32_t rows, const char *why);

#endif
