/*
 * A WASI command: counts words. Payload on stdin, answer as JSON on stdout, complaints on stderr.
 *
 * It knows nothing of forewarm: the same file runs under any WASI host, and compiled natively under a shell.
 * Exit code 2 where stdin is empty, 1 where reading or writing fails. Memory does not grow with the input.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A word is a run of bytes that are not ASCII white space; so UTF-8 text counts right without being decoded. */
static bool is_space(unsigned char byte) {
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

/* write(2) straight away: stdio would double the size of the module. */
static bool write_all(int file, const char *text, size_t length) {
    while (length > 0) {
        ssize_t written = write(file, text, length);
        if (written < 0) {
            if (errno == EINTR) continue;
            return false;
        }
        text += written;
        length -= (size_t)written;
    }
    return true;
}

static void complain(const char *text) {
    write_all(STDERR_FILENO, text, strlen(text));
}

/* Appends `name` and `value` in decimal to `out`; 20 digits hold every uint64_t. */
static char *put(char *out, const char *name, uint64_t value) {
    char digits[20];
    size_t count = 0;
    while (*name) *out++ = *name++;
    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    while (count > 0) *out++ = digits[--count];
    return out;
}

int main(void) {
    static unsigned char buffer[16384];
    uint64_t bytes = 0, words = 0, lines = 0, longest = 0, length = 0;

    for (;;) {
        ssize_t got = read(STDIN_FILENO, buffer, sizeof buffer);
        if (got < 0) {
            if (errno == EINTR) continue;
            complain("wordcount: stdin cannot be read\n");
            return 1;
        }
        if (got == 0) break;
        bytes += (uint64_t)got;
        for (ssize_t at = 0; at < got; at++) {
            if (is_space(buffer[at])) {
                lines += buffer[at] == '\n';
                length = 0;
                continue;
            }
            words += length == 0;
            length++;
            if (length > longest) longest = length;
        }
    }
    if (bytes == 0) {
        complain("wordcount: nothing on stdin: send the text to count as the payload\n");
        return 2;
    }

    char answer[160];
    char *end = answer;
    end = put(end, "{\"words\":", words);
    end = put(end, ",\"lines\":", lines);
    end = put(end, ",\"bytes\":", bytes);
    end = put(end, ",\"longest_word_bytes\":", longest);
    *end++ = '}';
    *end++ = '\n';
    if (!write_all(STDOUT_FILENO, answer, (size_t)(end - answer))) {
        complain("wordcount: stdout cannot be written\n");
        return 1;
    }
    return 0;
}
