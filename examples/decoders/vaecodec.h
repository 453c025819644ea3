/* Decode vaecodec's codes of a number of bytes (trellis codes, with or without stages before them) in C99.
 *
 * One header without dependencies but libc and libm. docs/codes.md specifies the codes; the results are those of Python,
 * bit for bit, where the compiler rounds each product by itself: gcc and clang take -ffp-contract=off.
 *
 *     const char *error = NULL;
 *     vaecodec_code *code = vaecodec_open(file, size, 32, &error);   // the bytes of a codec file, or its calibration as JSON
 *     float *latent = malloc(vaecodec_width(code) * sizeof *latent);
 *     vaecodec_decode(code, bytes, latent);                          // 32 bytes to one latent
 *     vaecodec_close(code);
 *
 * Nothing of the file is trusted: every size is checked before it is used. A code may be shared by threads.
 */
#ifndef VAECODEC_H
#define VAECODEC_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    size_t bytes, width, stages, steps;
    int cosine, memory;
    float *mean, *spread;          /* without stages: (width) each */
    float *books, *axes, *offset;  /* with stages: (stages, 256, width), (width, width), (width) */
    float *levels;                 /* (rates, 2^memory) */
    size_t *order, *starts, *rates; /* (steps) */
} vaecodec_code;

/* Each product is rounded before it is added. gcc knows no pragma for that and takes the option. */
#if defined(__clang__) || !defined(__GNUC__)
#pragma STDC FP_CONTRACT OFF
#endif

#define VAECODEC_CENTROIDS 256
#define VAECODEC_WIDEST 65536

/* ---- the parts of a file ---- */

typedef struct { const char *at, *end; } vaecodec_text;

/* One varint of a protobuf message; 0 when the message ends within it. */
static int vaecodec_varint(const uint8_t **at, const uint8_t *end, uint64_t *value) {
    *value = 0;
    for (int shift = 0; shift < 64 && *at < end; shift += 7) {
        uint8_t byte = *(*at)++;
        *value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return 1;
    }
    return 0;
}

/* The next field of a message that holds bytes; 0 at the end, and when the message is damaged. */
static int vaecodec_field(const uint8_t **at, const uint8_t *end, uint64_t *number, vaecodec_text *bytes) {
    uint64_t tag, size;
    while (*at < end && vaecodec_varint(at, end, &tag)) {
        int kind = (int)(tag & 7);
        if (kind == 0) {
            if (!vaecodec_varint(at, end, &size)) return 0;
            continue;
        }
        if (kind == 1 || kind == 5) size = kind == 1 ? 8 : 4;
        else if (kind != 2 || !vaecodec_varint(at, end, &size)) return 0;
        if (size > (uint64_t)(end - *at)) return 0;
        bytes->at = (const char *)*at;
        bytes->end = bytes->at + size;
        *at += size;
        if (kind != 2) continue;
        *number = tag >> 3;
        return 1;
    }
    return 0;
}

/* A value of the codec file's metadata. */
static int vaecodec_metadata(const void *file, size_t size, const char *key, vaecodec_text *value) {
    const uint8_t *at = (const uint8_t *)file, *end = at + size;
    vaecodec_text entry, part;
    uint64_t number;
    while (vaecodec_field(&at, end, &number, &entry)) {
        const uint8_t *inner = (const uint8_t *)entry.at;
        int found = 0;
        if (number != 14) continue;
        while (vaecodec_field(&inner, (const uint8_t *)entry.end, &number, &part)) {
            size_t length = (size_t)(part.end - part.at);
            if (number == 1) found = length == strlen(key) && !memcmp(part.at, key, length);
            if (number == 2 && found) return *value = part, 1;
        }
    }
    return 0;
}

static void vaecodec_space(vaecodec_text *json) {
    while (json->at < json->end && (*json->at == ' ' || *json->at == '\n' || *json->at == '\r' || *json->at == '\t')) json->at++;
}

/* Pass over one JSON value, its text in ``value``; 0 when there is none. Brackets are counted, so that no depth of them
 * takes stack. */
static int vaecodec_value(vaecodec_text *json, vaecodec_text *value) {
    size_t depth = 0;
    vaecodec_space(json);
    value->at = json->at;
    do {
        char letter;
        if (json->at >= json->end) return 0;
        letter = *json->at++;
        if (letter == '"') {
            for (; json->at < json->end && *json->at != '"'; json->at++)
                if (*json->at == '\\') json->at++;
            if (json->at >= json->end) return 0;
            json->at++;
        } else if (letter == '{' || letter == '[') {
            depth++;
        } else if (letter == '}' || letter == ']') {
            if (!depth--) return 0;
        } else if (!depth) {
            while (json->at < json->end && !strchr(",:]} \n\r\t", *json->at)) json->at++;
        }
    } while (depth);
    value->end = json->at;
    return 1;
}

/* A member of a JSON object by its name. */
static int vaecodec_member(vaecodec_text object, const char *name, vaecodec_text *value) {
    vaecodec_text key;
    vaecodec_space(&object);
    if (object.at >= object.end || *object.at++ != '{') return 0;
    while (vaecodec_value(&object, &key)) {
        size_t length = (size_t)(key.end - key.at);
        vaecodec_space(&object);
        if (object.at >= object.end || *object.at++ != ':' || !vaecodec_value(&object, value)) return 0;
        if (length == strlen(name) + 2 && !memcmp(key.at + 1, name, length - 2)) return 1;
        vaecodec_space(&object);
        if (object.at < object.end && *object.at == ',') object.at++;
    }
    return 0;
}

static int vaecodec_integer(vaecodec_text object, const char *name, size_t *number) {
    vaecodec_text value;
    if (!vaecodec_member(object, name, &value) || value.end - value.at > 9) return 0;
    for (*number = 0; value.at < value.end; value.at++) {
        if (*value.at < '0' || *value.at > '9') return 0;
        *number = 10 * *number + (size_t)(*value.at - '0');
    }
    return 1;
}

static float vaecodec_half(unsigned bits) {
    int exponent = (int)(bits >> 10 & 31);
    float size = exponent ? ldexpf(1024.0f + (float)(bits & 1023), exponent - 25) : ldexpf((float)(bits & 1023), -24);
    return bits & 0x8000 ? -size : size;
}

/* A base64 member of little-endian floats of 2 or 4 bytes; NULL where there is none. Free it. */
static float *vaecodec_floats(vaecodec_text object, const char *name, int each, size_t *count) {
    vaecodec_text value;
    uint32_t word = 0;
    size_t bits = 0, filled = 0, bytes = 0;
    uint32_t number = 0;
    float *floats;
    if (!vaecodec_member(object, name, &value) || value.end - value.at < 2 || *value.at != '"') return NULL;
    floats = (float *)malloc(((size_t)(value.end - value.at) / (size_t)each + 1) * sizeof *floats);
    for (value.at++, value.end--; floats && value.at < value.end && *value.at != '='; value.at++) {
        static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const char *place = *value.at ? strchr(letters, *value.at) : NULL;
        if (!place) return free(floats), NULL;
        word = word << 6 | (uint32_t)(place - letters);
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        number |= (word >> bits & 255) << 8 * bytes;
        if (++bytes < (size_t)each) continue;
        if (each == 4) memcpy(&floats[filled++], &number, 4);
        else floats[filled++] = vaecodec_half(number);
        bytes = 0;
        number = 0;
    }
    *count = filled;
    return floats;
}

/* The same of a known count. */
static float *vaecodec_exactly(vaecodec_text object, const char *name, int each, size_t count) {
    size_t found;
    float *floats = vaecodec_floats(object, name, each, &found);
    if (floats && found != count) return free(floats), NULL;
    return floats;
}

/* ---- the trellis ---- */

typedef struct { float gain; size_t at; } vaecodec_gain;

/* The largest gain first; of equal ones the lower dimension's, then the lower bit's. */
static int vaecodec_by_gain(const void *left, const void *right) {
    const vaecodec_gain *a = (const vaecodec_gain *)left, *b = (const vaecodec_gain *)right;
    if (a->gain != b->gain) return a->gain > b->gain ? -1 : 1;
    return a->at < b->at ? -1 : a->at > b->at;
}

static const char *vaecodec_trellis(vaecodec_code *code, vaecodec_text stored, const float *importance, size_t bytes) {
    size_t memory, count, end = 0, total = 8 * bytes, width = code->width;
    vaecodec_gain *gains = NULL;
    size_t *bits = NULL;
    float *distortion = vaecodec_floats(stored, "distortion", 4, &count);
    const char *error = "the calibration's trellis is damaged";
    if (!distortion || count < 1 || count > 8) goto done;
    if (!vaecodec_integer(stored, "memory", &memory) || memory < 4 || memory > 16) goto done;
    if (!(code->levels = vaecodec_exactly(stored, "levels", 2, count << memory))) goto done;
    error = "there is no code of so many bytes: vaecodec info says which there are";
    if (bytes < 1 || total > width * count) goto done;
    error = "out of memory";
    gains = (vaecodec_gain *)malloc(width * count * sizeof *gains);
    bits = (size_t *)calloc(width, sizeof *bits);
    code->order = (size_t *)malloc(width * sizeof(size_t));
    code->starts = (size_t *)malloc(width * sizeof(size_t));
    code->rates = (size_t *)malloc(width * sizeof(size_t));
    if (!gains || !bits || !code->order || !code->starts || !code->rates) goto done;
    for (size_t at = 0; at < width * count; at++) {
        size_t rate = at % count;
        float drop = (rate ? distortion[rate - 1] : 1.0f) - distortion[rate];
        gains[at].gain = importance[at / count] * drop;
        gains[at].at = at;
    }
    qsort(gains, width * count, sizeof *gains, vaecodec_by_gain);
    for (size_t i = 0; i < total; i++) bits[gains[i].at / count]++;
    code->memory = (int)memory;
    code->steps = 0;
    for (size_t rate = 1; rate <= count; rate++)
        for (size_t i = 0; i < width; i++)
            if (bits[i] == rate) {
                end += rate;
                code->order[code->steps] = i;
                code->rates[code->steps] = rate;
                code->starts[code->steps++] = (end + total * (memory / total + 1) - memory) % total;
            }
    error = NULL;
done:
    free(distortion);
    free(gains);
    free(bits);
    return error;
}

/* What step t of a trellis code stands for, in units of its spread. */
static float vaecodec_level(const vaecodec_code *code, const uint8_t *bytes, size_t count, size_t t) {
    size_t first = code->starts[t] / 8;
    uint32_t word = (uint32_t)bytes[first] << 16 | (uint32_t)bytes[(first + 1) % count] << 8 | bytes[(first + 2) % count];
    uint32_t state = word >> (24 - (size_t)code->memory - code->starts[t] % 8) & ((1u << code->memory) - 1);
    return code->levels[((code->rates[t] - 1) << code->memory) + state];
}

/* ---- stages before the trellis ---- */

static void vaecodec_add(float *sums, float scale, const float *values, size_t count) {
    for (size_t j = 0; j < count; j++) {
        float product = scale * values[j];
        sums[j] += product;
    }
}

/* Move each number a share of the way to the fitted decoder's. */
static int vaecodec_towards(float *plain, float *fitted, size_t count, float share) {
    for (size_t j = 0; fitted && j < count; j++) {
        float change = share * (fitted[j] - plain[j]);
        plain[j] = share == 1.0f ? fitted[j] : plain[j] + change;
    }
    free(fitted);
    return fitted != NULL;
}

static const char *vaecodec_decoder(vaecodec_code *code, vaecodec_text decoders) {
    vaecodec_text each;
    size_t width = code->width, stages = code->stages, least, most, full, rest = code->bytes > stages;
    decoders.at++;
    while (vaecodec_value(&decoders, &each)) {
        float share;
        vaecodec_space(&decoders);
        if (decoders.at < decoders.end) decoders.at++;
        if (!vaecodec_integer(each, "least", &least) || !vaecodec_integer(each, "most", &most) || !vaecodec_integer(each, "full", &full))
            return "the calibration's decoders are damaged";
        if (code->bytes < least || code->bytes > most) continue;
        share = (float)pow(full < code->bytes ? (double)full / (double)code->bytes : 1.0, 1.5);
        if (!vaecodec_towards(code->books, vaecodec_exactly(each, "books", 2, stages * VAECODEC_CENTROIDS * width), stages * VAECODEC_CENTROIDS * width, share) ||
            !vaecodec_towards(code->axes, vaecodec_exactly(each, "axes", 2, rest * width * width), rest * width * width, share) ||
            !vaecodec_towards(code->offset, vaecodec_exactly(each, "offset", 4, width), width, share))
            return "the calibration's decoders are damaged";
        return NULL;
    }
    return NULL;
}

static const char *vaecodec_stages(vaecodec_code *code, vaecodec_text residual, vaecodec_text trellis) {
    size_t width = code->width, whole, stages, count, rest;
    float *importance = NULL, *mean = NULL, *spread = NULL;
    vaecodec_text decoders;
    const char *error = "the calibration's stages are damaged";
    if (!vaecodec_integer(residual, "whole", &whole) || !vaecodec_integer(residual, "stages", &stages)) return error;
    if (stages < 1 || stages > whole || !vaecodec_member(residual, "decoders", &decoders) || *decoders.at != '[') return error;
    if (code->bytes < 4) return "there is no code of so few bytes";
    rest = code->bytes > whole;
    code->stages = rest ? stages : code->bytes;
    code->books = vaecodec_floats(residual, "books", 2, &count);
    code->axes = vaecodec_exactly(residual, "axes", 2, width * width);
    code->offset = (float *)calloc(width, sizeof(float));
    importance = vaecodec_exactly(residual, "importance", 4, width);
    mean = vaecodec_exactly(residual, "mean", 4, width);
    spread = vaecodec_exactly(residual, "spread", 4, width);
    if (!code->books || count < code->stages * VAECODEC_CENTROIDS * width || !code->axes || !code->offset) goto done;
    if (!importance || !mean || !spread) goto done;
    error = NULL;
    if (rest) {
        error = vaecodec_trellis(code, trellis, importance, code->bytes - stages);
        for (size_t i = 0; i < width; i++) {
            vaecodec_add(code->offset, mean[i], code->axes + i * width, width);
            for (size_t j = 0; j < width; j++) code->axes[i * width + j] *= spread[i];
        }
    }
    if (!error) error = vaecodec_decoder(code, decoders);
done:
    free(importance);
    free(mean);
    free(spread);
    return error;
}

/* ---- what programs call ---- */

/* Free what vaecodec_open gave; NULL is let pass. */
static void vaecodec_close(vaecodec_code *code) {
    if (!code) return;
    free(code->mean), free(code->spread), free(code->books), free(code->axes), free(code->offset);
    free(code->levels), free(code->order), free(code->starts), free(code->rates), free(code);
}

/* Read how codes of ``bytes`` bytes are decoded, from a codec file or the JSON of its calibration, which may be freed
 * afterwards. Returns NULL and says why in ``error`` where that cannot be. */
static vaecodec_code *vaecodec_open(const void *file, size_t size, size_t bytes, const char **error) {
    vaecodec_text json, codes, trellis, residual, metric;
    float *importance = NULL;
    vaecodec_code *code = (vaecodec_code *)calloc(1, sizeof *code);
    json.at = (const char *)file;
    json.end = json.at + size;
    *error = "out of memory";
    if (!code) return NULL;
    *error = "expected a codec file that holds codes";
    if (!size || (*json.at != '{' && !vaecodec_metadata(file, size, "vaecodec.calibration", &json))) goto failed;
    if (!vaecodec_member(json, "codes", &codes) || !vaecodec_member(codes, "trellis", &trellis)) goto failed;
    if (!vaecodec_member(codes, "metric", &metric)) goto failed;
    *error = "the calibration is damaged";
    code->bytes = bytes;
    code->cosine = metric.end - metric.at == 8 && !memcmp(metric.at, "\"cosine\"", 8);
    code->mean = vaecodec_floats(codes, "mean", 4, &code->width);
    if (!code->mean || !code->width || code->width > VAECODEC_WIDEST || bytes > VAECODEC_WIDEST) goto failed;
    code->spread = vaecodec_exactly(codes, "spread", 4, code->width);
    importance = vaecodec_exactly(codes, "importance", 4, code->width);
    if (!code->spread || !importance) goto failed;
    if (vaecodec_member(codes, "residual", &residual)) *error = vaecodec_stages(code, residual, trellis);
    else *error = vaecodec_trellis(code, trellis, importance, bytes);
    if (*error) goto failed;
    free(importance);
    return code;
failed:
    free(importance);
    vaecodec_close(code);
    return NULL;
}

/* Numbers of one latent. */
static size_t vaecodec_width(const vaecodec_code *code) { return code->width; }

/* Decode one code of code->bytes bytes to vaecodec_width(code) numbers; of unit norm under cosine. */
static void vaecodec_decode(const vaecodec_code *code, const uint8_t *bytes, float *latent) {
    size_t width = code->width;
    double squares = 0;
    float norm;
    memcpy(latent, code->books ? code->offset : code->mean, width * sizeof *latent);
    if (code->books) {
        for (size_t stage = 0; stage < code->stages; stage++) {
            const float *centroid = code->books + (stage * VAECODEC_CENTROIDS + bytes[stage]) * width;
            for (size_t j = 0; j < width; j++) latent[j] += centroid[j];
        }
        for (size_t t = 0; t < code->steps; t++)
            vaecodec_add(latent, vaecodec_level(code, bytes + code->stages, code->bytes - code->stages, t),
                         code->axes + code->order[t] * width, width);
    } else {
        for (size_t t = 0; t < code->steps; t++) {
            size_t i = code->order[t];
            float product = code->spread[i] * vaecodec_level(code, bytes, code->bytes, t);
            latent[i] = code->mean[i] + product;
        }
    }
    if (!code->cosine) return;
    for (size_t j = 0; j < width; j++) squares += (double)latent[j] * latent[j];
    norm = (float)sqrt(squares);
    for (size_t j = 0; norm > 0 && j < width; j++) latent[j] /= norm;
}

#endif
