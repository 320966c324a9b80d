/* Preloaded into a process: a wall clock that jumps, and a disk as slow as one over a network.
 *
 * JUMPING_CLOCK=SECONDS    each reading of the wall clock is off by up to so much, either way;
 *                          the monotonic clock is left as it is, as when an administrator or NTP
 *                          sets the time
 * SLOW_DISK=MILLISECONDS   every fsync, rename and unlink takes so much longer
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

static long jump(void) {
    static uint64_t state = 1;
    long most = number("JUMPING_CLOCK");
    if (most <= 0)
        return 0;
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (long)((state >> 33) % (uint64_t)(2 * most)) - most;
}

static void wait(void) {
    usleep((useconds_t)number("SLOW_DISK") * 1000);
}

int clock_gettime(clockid_t clock, struct timespec *found) {
    int result = REAL(clock_gettime)(clock, found);
    if (clock == CLOCK_REALTIME)
        found->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *found, void *zone) {
    int result = REAL(gettimeofday)(found, zone);
    found->tv_sec += jump();
    return result;
}

time_t time(time_t *found) {
    time_t now = REAL(time)(NULL) + jump();
    if (found)
        *found = now;
    return now;
}

int fsync(int file) {
    wait();
    return REAL(fsync)(file);
}

int rename(const char *from, const char *to) {
    wait();
    return REAL(rename)(from, to);
}

int unlink(const char *path) {
    wait();
    return REAL(unlink)(path);
}
