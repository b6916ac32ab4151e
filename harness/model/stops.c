#include "harness/model/stops.h"

#include "harness/base/arena.h"
#include "harness/base/files.h"
#include "harness/base/json.h"

enum { STOPS_BYTES = 1 << 20, STOPS_MOST = sizeof((struct config *)0)->eos / sizeof(uint32_t) };

static int add(struct config *config, struct json value, struct error *error)
{
    uint32_t id;
    const int status = json_need_u32(value, 0, config->vocabulary - 1, &id, error);
    if (status)
        return status;
    for (uint32_t i = 0; i < config->n_eos; i++)
        if (config->eos[i] == id)
            return 0;
    if (config->n_eos == STOPS_MOST)
        return error_set(error, ERROR_INPUT,
                         "%s: one stop token more than the %d that config.json and this file may have",
                         json_where(value), STOPS_MOST);
    config->eos[config->n_eos++] = id;
    return 0;
}

static int read(struct config *config, struct json root, struct error *error)
{
    int status = json_need_object(root, error);
    const struct json eos = json_get(root, "eos_token_id");
    if (status || !json_present(eos))
        return status;
    if (!json_is_array(eos))
        return add(config, eos, error);
    for (struct json entry = json_first(eos); entry.item && !status; entry = json_next(entry))
        status = add(config, entry, error);
    return status;
}

int stops_open(struct config *config, const char *directory, struct error *error)
{
    struct arena arena = {0};
    struct json_document *document = NULL;
    const char *path = file_join(&arena, directory, "generation_config.json");
    struct config joined = *config;
    int status = path ? 0 : error_set(error, ERROR_RUNTIME, "%s: no memory to read its stop tokens", directory);
    if (!status && file_exists(path)) {
        status = json_open_file(&document, path, STOPS_BYTES, error);
        if (!status)
            status = read(&joined, json_root(document), error);
    }
    json_close(&document);
    arena_close(&arena);
    if (!status)
        *config = joined;
    return status;
}
