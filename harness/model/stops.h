// stops: the stop tokens that a checkpoint states beside config.json.
//
// Qwen3.5's config.json names <|endoftext|> (248044) alone; a chat ends with <|im_end|> (248046), which stands in
// generation_config.json. A run stops on both (architecture.md 9.3).
#ifndef ASSAY_STOPS_H
#define ASSAY_STOPS_H

#include "harness/base/error.h"
#include "harness/model/config.h"

// Adds to config->eos those of `eos_token_id` (a number, a list, null or absent) in DIRECTORY/generation_config.json
// that are not there yet, in their order. Nothing without such a file. Refused, naming the value: what is no id below
// the vocabulary, more than eight stop tokens together; `config` is then unchanged.
int stops_open(struct config *config, const char *directory, struct error *error);

#endif
