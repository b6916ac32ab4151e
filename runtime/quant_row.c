#include <assert.h>
#include <math.h>
#include <string.h>

#include "harness/base/floating.h"
#include "harness/base/half.h"
#include "runtime/quant.h"

static const float scale_floor = 0x1p-23f;  // torchao's eps; two steps of a subnormal half (zoo.md 2.1)
static const float search_floor = 1e-8f;    // zoo.md 2.6

static int check_finite(const float *w, uint32_t n, struct error *error)
{
    for (uint32_t k = 0; k < n; k++)
        if (!isfinite(w[k]))
            return error_set(error, ERROR_INPUT, "column %u is %s: only finite values can be quantized", k,
                             isnan(w[k]) ? "NaN" : "infinite");
    return 0;
}

static int too_large(uint32_t first, float value, const char *what, struct error *error)
{
    return error_set(error, ERROR_INPUT,
                     "column %u begins a block whose largest value, %g, needs a %s over 65504, the largest "
                     "half: keep this tensor in another precision",
                     first, (double)value, what);
}

static float absolute_maximum(const float *w, uint32_t n)
{
    float absmax = 0.0f;
    for (uint32_t k = 0; k < n; k++)
        absmax = fmaxf(absmax, fabsf(w[k]));
    return absmax;
}

static float clamp_code(float rounded, int low, int high)
{
    return fminf(fmaxf(rounded, (float)low), (float)high);
}

bool quant_is_clamped(enum quant_format format, float w, int code, float scale, float bias)
{
    int low, high;
    quant_range(format, &low, &high);
    const float unclamped = rintf((format == QUANT_INT4_AFFINE ? w - bias : w) / scale);
    return (code == low && unclamped < (float)low) || (code == high && unclamped > (float)high);
}

// --- one scale

static float row_divisor(enum quant_format format)
{
    return format == QUANT_INT8_SYM ? 127.5f : format == QUANT_INT8_CLIP ? 127.0f : 7.0f;
}

// The scale of the least error, of equal ones the first: the contract is in the header.
static float search_scale(const float *w, uint32_t n, float absmax)
{
    static const float clips[] = {1.0f, 0.95f, 0.9f, 0.85f, 0.8f, 0.75f, 0.7f};
    float best_scale = 0.0f, best = 0.0f;
    for (size_t i = 0; i < sizeof clips / sizeof *clips; i++) {
        const float scale = fmaxf(absmax * clips[i] / 127.0f, search_floor);
        float sum = 0.0f;
        for (uint32_t k = 0; k < n; k++) {
            const float distance = w[k] - clamp_code(rintf(w[k] / scale), -127, 127) * scale;
            sum += distance * distance;
        }
        if (i && !(sum < best))
            continue;
        best = sum;
        best_scale = scale;
    }
    return best_scale;
}

int quant_row(enum quant_format format, const float *w, uint32_t n, uint32_t block, int8_t *codes, uint16_t *scales,
              struct quant_statistics *statistics, struct error *error)
{
    int low, high;
    quant_range(format, &low, &high);
    assert(format <= QUANT_INT8_SEARCH && block && n % block == 0);
    const int code = check_finite(w, n, error);
    if (code)
        return code;
    for (uint32_t first = 0; first < n; first += block) {
        const bool search = format == QUANT_INT8_SEARCH;
        const float absmax = absolute_maximum(w + first, block);
        const float exact = search ? search_scale(w + first, block, absmax)
                                   : fmaxf(absmax / row_divisor(format), scale_floor);
        const float stored = half_round(exact), scale = search ? exact : stored;
        if (!isfinite(stored))
            return too_large(first, absmax, "scale", error);
        *scales++ = half_from_float(exact);
        statistics->scales++;
        statistics->subnormal_scales += stored < 0x1p-14f;
        for (uint32_t k = first; k < first + block; k++) {
            codes[k] = (int8_t)clamp_code(rintf(w[k] / scale), low, high);
            statistics->clamped += quant_is_clamped(format, w[k], codes[k], stored, 0.0f);
            const double value = (double)w[k], distance = value - (double)((float)codes[k] * stored);
            statistics->square_error += distance * distance;
            statistics->square_sum += value * value;
        }
    }
    statistics->codes += n;
    return 0;
}

// --- scale and bias

struct range {
    float scale, bias;
};

static float affine_code(float w, struct range range)
{
    return clamp_code(rintf((w - range.bias) / range.scale), 0, 15);
}

static struct range search_range(const float *w, uint32_t n)
{
    static const float clips[] = {1.0f, 0.9f, 0.8f, 0.7f, 0.6f, 0.5f};
    float low = w[0], high = w[0], best = 0.0f;
    for (uint32_t k = 1; k < n; k++) { // not fminf: which zero it takes is the library's choice
        low = w[k] < low ? w[k] : low;
        high = w[k] > high ? w[k] : high;
    }
    const float middle = (low + high) / 2.0f, half = (high - low) / 2.0f;
    struct range best_range = {0};
    for (size_t i = 0; i < sizeof clips / sizeof *clips; i++) {
        const float reach = half * clips[i];
        const struct range range = {fmaxf(2.0f * reach / 15.0f, search_floor), middle - reach};
        float sum = 0.0f;
        for (uint32_t k = 0; k < n; k++) {
            const float distance = w[k] - fmaf(range.scale, affine_code(w[k], range), range.bias);
            sum += distance * distance;
        }
        if (i && !(sum < best))
            continue;
        best = sum;
        best_range = range;
    }
    return best_range;
}

int quant_row_affine(const float *w, uint32_t n, int8_t *codes, uint16_t *scales, uint16_t *biases,
                     struct quant_statistics *statistics, struct error *error)
{
    assert(n % QUANT_BLOCK == 0);
    const int code = check_finite(w, n, error);
    if (code)
        return code;
    for (uint32_t first = 0; first < n; first += QUANT_BLOCK) {
        const struct range range = search_range(w + first, QUANT_BLOCK);
        const struct range stored = {half_round(range.scale), half_round(range.bias)};
        if (!isfinite(stored.scale) || !isfinite(stored.bias))
            return too_large(first, absolute_maximum(w + first, QUANT_BLOCK), "scale or bias", error);
        *scales++ = half_from_float(range.scale);
        *biases++ = half_from_float(range.bias);
        statistics->scales++;
        statistics->subnormal_scales += stored.scale < 0x1p-14f;
        for (uint32_t k = first; k < first + QUANT_BLOCK; k++) {
            codes[k] = (int8_t)affine_code(w[k], range);
            statistics->clamped += quant_is_clamped(QUANT_INT4_AFFINE, w[k], codes[k], stored.scale, stored.bias);
            const double value = (double)w[k];
            const double distance = value - (double)fmaf(stored.scale, (float)codes[k], stored.bias);
            statistics->square_error += distance * distance;
            statistics->square_sum += value * value;
        }
    }
    statistics->codes += n;
    return 0;
}

// --- as they are stored

void quant_pack(enum weight_format format, const int8_t *codes, uint32_t n, uint8_t *out)
{
    if (!quant_is_packed(format)) {
        memcpy(out, codes, n);
        return;
    }
    for (uint32_t k = 0; k < n; k += 2) {
        const unsigned low = (unsigned)codes[k] & 0xF, high = k + 1 < n ? (unsigned)codes[k + 1] & 0xF : 0;
        out[k / 2] = (uint8_t)(low | high << 4);
    }
}

void quant_codes(const struct weight *weight, uint32_t row, int16_t *codes)
{
    const uint8_t *stored = (const uint8_t *)weight->data + row * weight_row_bytes(weight);
    for (uint32_t k = 0; k < weight->cols; k++) {
        const int byte = quant_is_packed(weight->format) ? stored[k / 2] >> (k % 2 ? 4 : 0) & 0xF : stored[k];
        if (weight->format == WEIGHT_Q8)
            codes[k] = (int8_t)byte;
        else
            codes[k] = (int16_t)(weight->format == WEIGHT_Q4 && byte >= 8 ? byte - 16 : byte);
    }
}
