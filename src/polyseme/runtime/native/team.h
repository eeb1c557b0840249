/* A few threads that share one piece of work: for a single text, where there is nothing else to divide.
 *
 * Helpers are started at first use and kept. Between two pieces of work they look for the next one for about
 * as long as a layer takes, then sleep. Work comes in more parts than there are threads, and each thread takes
 * the next part when it is done with one: a helper whose core is taken by another process takes none, and
 * nobody waits for it. Each helper has a core that is not the caller's, since the system is slow to move a thread
 * that was woken beside its waker. Whoever finds the team taken, or no threads to be had, works alone; the result is the
 * same.
 */

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#define HELPERS 255
#define AWAKE 300000L /* nanoseconds for which a helper looks for the next piece of work before it sleeps */
#define LOOKS 64      /* between two looks at the clock */
#define TURNS 0x3fffff
#define RENEWING -1 /* minus the number of the process whose team is being made */

typedef void (*Part)(void *work, long part, long parts);

static struct {
    pthread_mutex_t taken; /* by one caller at a time */
    pthread_mutex_t bed;   /* of helpers that sleep */
    pthread_cond_t call;
    atomic_int turn;   /* the number of the last piece of work; never 0 */
    atomic_int open;   /* the number of the one that helpers may join, or 0 */
    atomic_int inside; /* helpers that may be at it */
    atomic_int asleep;
    atomic_long next; /* the first part that nobody has taken */
    int helpers, wanted;
    int caller; /* the core of the last caller, for which the helpers were seated; -1: they are not */
    pthread_t threads[HELPERS];
    _Atomic pid_t process; /* in which the helpers live: a fork has none of them */
    Part part;
    void *work;
    long parts;
} team = {.taken = PTHREAD_MUTEX_INITIALIZER, .bed = PTHREAD_MUTEX_INITIALIZER, .call = PTHREAD_COND_INITIALIZER};

static _Thread_local int sharing = 1; /* threads that this thread's products may use, itself included */

static inline void breathe(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static long nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

/* Wait for a piece of work after the last one that was seen; returns its number. */
static int next_turn(int last) {
    for (const long end = nanoseconds() + AWAKE; nanoseconds() < end;)
        for (int look = 0; look < LOOKS; look++) {
            const int turn = atomic_load(&team.turn);
            if (turn != last) return turn;
            breathe();
        }
    pthread_mutex_lock(&team.bed);
    atomic_fetch_add(&team.asleep, 1);
    while (atomic_load(&team.turn) == last) pthread_cond_wait(&team.call, &team.bed);
    atomic_fetch_sub(&team.asleep, 1);
    pthread_mutex_unlock(&team.bed);
    return atomic_load(&team.turn);
}

static void take_parts(void) {
    for (long part; (part = atomic_fetch_add(&team.next, 1)) < team.parts;) team.part(team.work, part, team.parts);
}

/* A helper: `given` holds its number and the turn at which it was started. */
static void *help(void *given) {
    const int number = (int)((intptr_t)given & HELPERS);
    for (int turn = (int)((intptr_t)given >> 8);;) {
        turn = next_turn(turn);
        /* Whoever is counted before the work is closed is waited for; whoever comes later finds it closed. */
        atomic_fetch_add(&team.inside, 1);
        if (atomic_load(&team.open) == turn && number <= team.wanted) take_parts();
        atomic_fetch_sub(&team.inside, 1);
    }
    return NULL;
}

#if defined(__linux__)
/* Give each helper one of the other cores that the caller may use. */
static void seat(void) {
    const int here = sched_getcpu();
    cpu_set_t usable, one;
    if (here == team.caller || sched_getaffinity(0, sizeof usable, &usable)) return;
    team.caller = here;
    if (here >= 0) CPU_CLR(here, &usable);
    for (int helper = 0, core = here; CPU_COUNT(&usable) && helper < team.helpers; helper++) {
        do core = (core + 1) % CPU_SETSIZE;
        while (!CPU_ISSET(core, &usable));
        CPU_ZERO(&one);
        CPU_SET(core, &one);
        pthread_setaffinity_np(team.threads[helper], sizeof one, &one);
    }
}
#else
static void seat(void) {}
#endif

/* In a process that was forked, forget the helpers of its parent and what they or their callers held: of several
 * threads there the first does it. Whether the team can be used; who comes while it is done works alone. */
static int is_of_this_process(void) {
    const pid_t here = getpid();
    pid_t owner = atomic_load(&team.process);
    if (owner == here) return 1;
    if (owner == RENEWING - here || !atomic_compare_exchange_strong(&team.process, &owner, RENEWING - here)) return 0;
    team.helpers = 0;
    atomic_store(&team.open, 0);
    atomic_store(&team.asleep, 0);
    atomic_store(&team.inside, 0);
    pthread_mutex_init(&team.taken, NULL);
    pthread_mutex_init(&team.bed, NULL);
    pthread_cond_init(&team.call, NULL);
    atomic_store(&team.process, here);
    return 1;
}

/* Start helpers that are missing, as far as the system lets; they take no signals of the program. */
static void hire(int wanted) {
    if (team.helpers >= wanted) return;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (team.helpers < wanted && team.helpers < HELPERS) {
        const intptr_t given = (intptr_t)atomic_load(&team.turn) << 8 | (team.helpers + 1);
        if (pthread_create(&team.threads[team.helpers], NULL, help, (void *)given)) break;
        pthread_detach(team.threads[team.helpers]);
        team.helpers++;
        team.caller = -1;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Do all parts of the work, by as many threads as this one may use. */
static void together(Part part, void *work, long parts) {
    if (sharing < 2 || parts < 2 || !is_of_this_process() || pthread_mutex_trylock(&team.taken)) {
        for (long i = 0; i < parts; i++) part(work, i, parts);
        return;
    }
    hire(sharing - 1);
    seat();
    team.part = part;
    team.work = work;
    team.parts = parts;
    team.wanted = sharing - 1;
    atomic_store(&team.next, 0);
    const int turn = atomic_load(&team.turn) % TURNS + 1;
    atomic_store(&team.open, turn);
    atomic_store(&team.turn, turn);
    if (atomic_load(&team.asleep)) {
        pthread_mutex_lock(&team.bed);
        pthread_cond_broadcast(&team.call);
        pthread_mutex_unlock(&team.bed);
    }
    take_parts();
    atomic_store(&team.open, 0);
    for (long look = 0; atomic_load(&team.inside); look++)
        if (look < 100 * LOOKS)
            breathe();
        else
            sched_yield(); /* a helper has lost its core in the middle of a part */
    pthread_mutex_unlock(&team.taken);
}

void native_share(int threads) { sharing = threads; }
