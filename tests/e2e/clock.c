/* A wall clock that a test can move: preload it, and write seconds as text into the file that TEST_CLOCK_FILE names.
 *
 * A wait until a moment of the wall clock lasts until this clock says so, as with a clock that is set in truth. Monotonic clocks
 * are left alone. It must not be linked into anything. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static long moved_s(void) {
    char text[32] = {0};
    const char *path = getenv("TEST_CLOCK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    return length > 0 ? strtol(text, NULL, 10) : 0;
}

static void real(struct timespec *now) { syscall(SYS_clock_gettime, CLOCK_REALTIME, now); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = (int)syscall(SYS_clock_gettime, clock, now);
    if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += moved_s();
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    real(&precise);
    now->tv_sec = precise.tv_sec + moved_s();
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec precise;
    real(&precise);
    time_t now = precise.tv_sec + moved_s();
    if (out) *out = now;
    return now;
}

typedef int wait_function(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

/* In slices, because the clock may be moved meanwhile. */
int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    static wait_function *next;
    if (!next) next = (wait_function *)dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    for (;;) {
        struct timespec now, slice;
        real(&now);
        double left = (double)(until->tv_sec - now.tv_sec - moved_s()) + (double)(until->tv_nsec - now.tv_nsec) / 1e9;
        if (left <= 0) return ETIMEDOUT;
        double wait = left < 0.05 ? left : 0.05;
        slice.tv_sec = now.tv_sec;
        slice.tv_nsec = now.tv_nsec + (long)(wait * 1e9);
        if (slice.tv_nsec >= 1000000000) {
            slice.tv_sec += 1;
            slice.tv_nsec -= 1000000000;
        }
        int status = next(cond, mutex, &slice);
        if (status != ETIMEDOUT) return status;
    }
}

/* librdkafka waits by the C standard's own function; the two kinds of objects are the same in glibc. */
int cnd_timedwait(cnd_t *restrict cond, mtx_t *restrict mutex, const struct timespec *restrict until) {
    int status = pthread_cond_timedwait((pthread_cond_t *)cond, (pthread_mutex_t *)mutex, until);
    return status == 0 ? thrd_success : status == ETIMEDOUT ? thrd_timedout : thrd_error;
}
