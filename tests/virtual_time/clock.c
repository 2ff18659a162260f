/* A wall clock that tests move: preloaded into every process, it adds an offset to the time.
 *
 * The offset, in nanoseconds, stands in the file that VIRTUAL_CLOCK names. All processes map it, so
 * that a jump reaches all of them at once. Only the wall clock is moved: timeouts and pauses count
 * on the monotonic clock and last as long as ever. Deadlines by the wall clock that a caller has
 * computed are moved back before the kernel sees them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define BILLION 1000000000LL
/* Instants after 2001 are by the wall clock: no machine has been up for 31 years. */
#define IS_WALL(instant) ((instant)->tv_sec > BILLION)

static const int64_t none = 0;
static const int64_t *offset = &none;

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void map_offset(void) {
    const char *path = getenv("VIRTUAL_CLOCK");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        offset = mapped;
}

static struct timespec moved(const struct timespec *instant, int direction) {
    int64_t nanoseconds = instant->tv_sec * BILLION + instant->tv_nsec;
    nanoseconds += direction * __atomic_load_n(offset, __ATOMIC_RELAXED);
    return (struct timespec){nanoseconds / BILLION, nanoseconds % BILLION};
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL)
        real = next("clock_gettime");
    int status = real(clock, now);
    if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        *now = moved(now, 1);
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    *now = (struct timeval){exact.tv_sec, exact.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *kept) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (kept != NULL)
        *kept = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *now, int base) {
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, now) == 0 ? base : 0;
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    static int (*real)(sem_t *, const struct timespec *);
    if (real == NULL)
        real = next("sem_timedwait");
    struct timespec true_until = moved(until, -1);
    return real(semaphore, &true_until);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    static int (*real)(pthread_mutex_t *, const struct timespec *);
    if (real == NULL)
        real = next("pthread_mutex_timedlock");
    struct timespec true_until = moved(until, -1);
    return real(mutex, &true_until);
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (real == NULL)
        real = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (real == NULL)
        real = next("pthread_cond_timedwait");
    struct timespec true_until = IS_WALL(until) ? moved(until, -1) : *until;
    return real(condition, mutex, &true_until);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until,
                    struct timespec *left) {
    static int (*real)(clockid_t, int, const struct timespec *, struct timespec *);
    if (real == NULL)
        real = next("clock_nanosleep");
    struct timespec true_until = *until;
    if ((flags & TIMER_ABSTIME) && clock == CLOCK_REALTIME)
        true_until = moved(until, -1);
    return real(clock, flags, &true_until, left);
}
