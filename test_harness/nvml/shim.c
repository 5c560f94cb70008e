/* A libnvidia-ml.so.1 for tests: nvidia-ml-py, the real binding, sees two simulated cards.
 *
 * The cards are described by the text file STATE_FILE (given at compile time), read again at
 * each call, one "key value" a line; what is absent has the value in brackets:
 *
 *   init [0]         result of nvmlInit, such as 9 (driver not loaded)
 *   count [2]        number of cards
 *   hang [0]         1: the next call for memory never returns
 *   crash [0]        1: the next call for memory ends the process with SIGSEGV
 *   N.lost [0]       1: every call on card N answers 15 (GPU is lost)
 *   events [1]       0: the driver has no events (3, not supported)
 *   N.used_mib [300]   N.reserved_mib [0, part of used]   N.util [0]   N.ecc [0]
 *   N.pid [0 = no process]   N.pid2 [0 = no second one]
 *   N.xid [0]   N.xid_events [1 if xid is set]: an event comes whenever this number rises
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, TIMEOUT = 10, INSUFFICIENT_SIZE = 7, LOST = 15, CARDS_MAX = 8 };
#define MIB(n) ((unsigned long long) (n) << 20)

typedef struct { unsigned index; } card;
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct { card *device; unsigned long long type, data; unsigned gpu, compute; } event;
typedef struct { unsigned gpu, memory; } utilization;
typedef struct { unsigned version, sensor; int celsius; } temperature;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process;

static card cards[CARDS_MAX] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}};

static long state(const char *key, long otherwise) {
    char name[64];
    long value;
    FILE *file = fopen(STATE_FILE, "r");
    while (file && fscanf(file, "%63s %ld", name, &value) == 2)
        if (strcmp(name, key) == 0) otherwise = value;
    if (file) fclose(file);
    return otherwise;
}

static long of(const card *c, const char *key, long otherwise) {
    char name[64];
    snprintf(name, sizeof name, "%u.%s", c->index, key);
    return state(name, otherwise);
}

static int lost(const card *c) { return of(c, "lost", 0) ? LOST : SUCCESS; }

int nvmlInitWithFlags(unsigned flags) { (void) flags; return (int) state("init", SUCCESS); }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int result) {
    return result == LOST ? "GPU is lost" : result == 9 ? "Driver Not Loaded" : "Error";
}

int nvmlDeviceGetCount_v2(unsigned *count) { *count = (unsigned) state("count", 2); return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, card **found) {
    if (index >= CARDS_MAX || index >= (unsigned) state("count", 2)) return INVALID_ARGUMENT;
    *found = &cards[index];
    return lost(*found);
}

int nvmlDeviceGetUUID(card *c, char *text, unsigned size) {
    snprintf(text, size, "GPU-00000000-0000-4000-8000-%012u", c->index);
    return lost(c);
}

int nvmlDeviceGetName(card *c, char *text, unsigned size) {
    snprintf(text, size, "Simulated %s", c->index ? "12 GiB" : "24 GiB");
    return lost(c);
}

int nvmlDeviceGetMemoryInfo(card *c, memory *m) {
    if (state("hang", 0)) for (;;) pause();
    if (state("crash", 0)) raise(SIGSEGV);
    m->total = MIB(c->index ? 12288 : 24576);
    m->used = MIB(of(c, "used_mib", 300));
    m->free = m->total - m->used;
    return lost(c);
}

int nvmlDeviceGetMemoryInfo_v2(card *c, memory_v2 *m) {
    memory all;
    int result = nvmlDeviceGetMemoryInfo(c, &all);
    m->total = all.total;
    m->reserved = MIB(of(c, "reserved_mib", 0));
    m->used = all.used - m->reserved;
    m->free = all.free;
    return result;
}

int nvmlDeviceGetTotalEccErrors(card *c, int type, int counter, unsigned long long *count) {
    (void) type; (void) counter;
    *count = (unsigned long long) of(c, "ecc", 0);
    return lost(c);
}

int nvmlEventSetCreate(long **set) {
    static long told[CARDS_MAX];
    *set = told;
    return state("events", 1) ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceRegisterEvents(card *c, unsigned long long types, long *told) {
    (void) types; (void) told;
    return lost(c);
}

int nvmlEventSetWait_v2(long *told, event *e, unsigned timeout_ms) {
    for (unsigned waited_ms = 0; waited_ms < timeout_ms; waited_ms += 20) {
        for (card *c = cards; c < cards + CARDS_MAX; c++) {
            long xid = of(c, "xid", 0);
            if (!xid || of(c, "xid_events", 1) <= told[c->index]) continue;
            told[c->index]++;
            *e = (event) {c, 8, (unsigned long long) xid, ~0u, ~0u};
            return SUCCESS;
        }
        usleep(20000);
    }
    return TIMEOUT;
}

int nvmlDeviceGetUtilizationRates(card *c, utilization *u) {
    u->gpu = (unsigned) of(c, "util", 0);
    u->memory = 0;
    return lost(c);
}

int nvmlDeviceGetTemperatureV(card *c, temperature *t) { t->celsius = 40; return lost(c); }
int nvmlDeviceGetTemperature(card *c, int sensor, unsigned *t) { (void) sensor; *t = 40; return lost(c); }
int nvmlDeviceGetPowerUsage(card *c, unsigned *milliwatts) { *milliwatts = 30000; return lost(c); }

int nvmlDeviceGetComputeRunningProcesses_v3(card *c, unsigned *count, process *p) {
    unsigned room = *count;
    long pids[2] = {of(c, "pid", 0), of(c, "pid2", 0)};
    *count = (unsigned) (!!pids[0] + !!pids[1]);
    if (!*count) return lost(c);
    if (!p || room < *count) return INSUFFICIENT_SIZE;
    for (int i = 0; i < 2; i++)
        if (pids[i]) *p++ = (process) {(unsigned) pids[i], MIB(200), ~0u, ~0u};
    return lost(c);
}
