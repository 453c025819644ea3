/* Decode a file of codes: cc -std=c99 -O2 decode.c -lm -o decode && ./decode codec.onnx 32 < codes > latents
 * Codes lie one after the other; latents are written as float32 of this machine. */
#include <stdio.h>

#include "vaecodec.h"

int main(int count, char **arguments) {
    const char *error = "usage: decode CODEC BYTES < CODES > LATENTS";
    FILE *file = count == 3 ? fopen(arguments[1], "rb") : NULL;
    size_t bytes = count == 3 ? (size_t)strtoul(arguments[2], NULL, 10) : 0, size = 0, room = 1 << 20;
    char *data = malloc(room);
    vaecodec_code *code = NULL;
    if (file && data) {
        for (size_t got; (got = fread(data + size, 1, room - size, file)) > 0;) {
            size += got;
            if (size == room && !(data = realloc(data, room *= 2))) return 1;
        }
        fclose(file);
        code = vaecodec_open(data, size, bytes, &error);
    }
    free(data);
    if (!code) return fprintf(stderr, "%s\n", error), 1;
    uint8_t *one = malloc(bytes);
    float *latent = malloc(vaecodec_width(code) * sizeof *latent);
    while (one && latent && fread(one, 1, bytes, stdin) == bytes) {
        vaecodec_decode(code, one, latent);
        fwrite(latent, sizeof *latent, vaecodec_width(code), stdout);
    }
    free(one);
    free(latent);
    vaecodec_close(code);
    return 0;
}
