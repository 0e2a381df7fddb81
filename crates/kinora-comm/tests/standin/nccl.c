/* A stand-in for libnccl.so.2 and libcuda.so.1 on machines without a GPU, for tests.
 *
 * Devices are host memory, streams are threads that do their work in order, and ranks are threads of
 * one process. It has the functions that Kinora calls, with the signatures of NVIDIA's headers, and
 * is as unforgiving as the real ones:
 * - ranks that disagree about a call wait for one another until they are aborted, each on its own;
 * - communicators are usable only once all ranks have joined, and while a call is being enqueued
 *   (a moment after it was made, as by a non-blocking communicator) take no other;
 * - a call needs a current context, ranks need devices of their own, and buffers must be allocated
 *   when the device comes to the call;
 * - sums add from the last rank to the first, and round half precision at each step.
 *
 * What tests ask for: collectives of BREAKS elements raise an asynchronous error on rank 1, and, as
 * those of STALLS elements, never end; events on the stream SLOW pass only after SLOW_MS.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BREAKS = 60013, STALLS = 60029, SLOW = 0x51, SLOW_MS = 300 };
enum { DEVICES = 8, RANKS = 64, LAUNCH_US = 50 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news = PTHREAD_COND_INITIALIZER;

static void start(void *(*body)(void *), void *data) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 256 << 10);
    if (pthread_create(&thread, &attributes, body, data) != 0) {
        fprintf(stderr, "stand-in: no more threads\n");
        abort();
    }
    pthread_detach(thread);
    pthread_attr_destroy(&attributes);
}

/* The driver. */

enum { CUDA_SUCCESS, CUDA_INVALID_VALUE = 1, CUDA_OUT_OF_MEMORY = 2, CUDA_NO_CONTEXT = 201, CUDA_NOT_READY = 600 };

typedef struct Event { long recorded, passed; int64_t slow_until; } Event;
typedef struct Work {
    struct Work *next;
    void (*run)(void *);
    void *data;
    Event *record, *wait;
    long ticket;
} Work;
typedef struct Stream { Work *first, *last; int closing; } Stream;
typedef struct Allocation { struct Allocation *next; char *at; size_t bytes; } Allocation;

static Allocation *allocations;
static __thread uintptr_t current;

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void *stream_body(void *data) {
    Stream *stream = data;
    pthread_mutex_lock(&lock);
    for (;;) {
        Work *work = stream->first;
        if (!work) {
            if (stream->closing) break;
            pthread_cond_wait(&news, &lock);
            continue;
        }
        if (work->wait) {
            while (work->wait->passed < work->ticket) {
                if (work->wait->slow_until) {
                    if (now_ms() >= work->wait->slow_until) break;
                    pthread_mutex_unlock(&lock);
                    usleep(1000);
                    pthread_mutex_lock(&lock);
                } else {
                    pthread_cond_wait(&news, &lock);
                }
            }
        }
        if (work->run) work->run(work->data);
        if (work->record && work->record->passed < work->ticket) work->record->passed = work->ticket;
        stream->first = work->next;
        if (!stream->first) stream->last = NULL;
        free(work);
        pthread_cond_broadcast(&news);
    }
    pthread_mutex_unlock(&lock);
    free(stream);
    return NULL;
}

static void enqueue(Stream *stream, Work what) {
    Work *work = malloc(sizeof *work);
    *work = what;
    work->next = NULL;
    if (stream->last) stream->last->next = work; else stream->first = work;
    stream->last = work;
    pthread_cond_broadcast(&news);
}

static int allocated(const void *at, size_t bytes) {
    const char *from = at;
    if (!bytes) return 1;
    for (Allocation *a = allocations; a; a = a->next)
        if (from >= a->at && from + bytes <= a->at + a->bytes) return 1;
    return 0;
}

int cuInit(unsigned flags) { (void)flags; return CUDA_SUCCESS; }
int cuDeviceGetCount(int *count) { *count = DEVICES; return CUDA_SUCCESS; }
int cuDeviceGet(int *device, int number) { *device = number; return number < DEVICES ? CUDA_SUCCESS : CUDA_INVALID_VALUE; }
int cuDevicePrimaryCtxRetain(uintptr_t *context, int device) { *context = device + 1; return CUDA_SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return CUDA_SUCCESS; }
int cuCtxSetCurrent(uintptr_t context) { current = context; return CUDA_SUCCESS; }

int cuGetErrorString(int code, const char **text) {
    *text = code == CUDA_NO_CONTEXT ? "invalid device context"
        : code == CUDA_OUT_OF_MEMORY ? "out of memory" : "invalid argument";
    return CUDA_SUCCESS;
}

int cuStreamCreate(Stream **stream, unsigned flags) {
    (void)flags;
    if (!current) return CUDA_NO_CONTEXT;
    *stream = calloc(1, sizeof **stream);
    start(stream_body, *stream);
    return CUDA_SUCCESS;
}

int cuStreamDestroy_v2(Stream *stream) {
    pthread_mutex_lock(&lock);
    stream->closing = 1;
    pthread_cond_broadcast(&news);
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

int cuEventCreate(Event **event, unsigned flags) {
    (void)flags;
    if (!current) return CUDA_NO_CONTEXT;
    *event = calloc(1, sizeof **event);
    return CUDA_SUCCESS;
}

/* Events are small, and work in a stream may still refer to them. */
int cuEventDestroy_v2(Event *event) { (void)event; return CUDA_SUCCESS; }

int cuEventRecord(Event *event, Stream *stream) {
    pthread_mutex_lock(&lock);
    event->recorded++;
    if ((uintptr_t)stream == SLOW) event->slow_until = now_ms() + SLOW_MS;
    else enqueue(stream, (Work){.record = event, .ticket = event->recorded});
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

int cuEventQuery(Event *event) {
    pthread_mutex_lock(&lock);
    int passed = event->slow_until ? now_ms() >= event->slow_until : event->passed >= event->recorded;
    pthread_mutex_unlock(&lock);
    return passed ? CUDA_SUCCESS : CUDA_NOT_READY;
}

int cuStreamWaitEvent(Stream *stream, Event *event, unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    enqueue(stream, (Work){.wait = event, .ticket = event->recorded});
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (!current) return CUDA_NO_CONTEXT;
    if (!bytes) return CUDA_INVALID_VALUE;
    Allocation *a = malloc(sizeof *a);
    a->at = malloc(bytes);
    if (!a->at) return CUDA_OUT_OF_MEMORY;
    memset(a->at, 0xa5, bytes);
    a->bytes = bytes;
    pthread_mutex_lock(&lock);
    a->next = allocations;
    allocations = a;
    pthread_mutex_unlock(&lock);
    *address = (uintptr_t)a->at;
    return CUDA_SUCCESS;
}

int cuMemFree_v2(uint64_t address) {
    int code = CUDA_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    for (Allocation **a = &allocations; *a; a = &(*a)->next) {
        if ((uintptr_t)(*a)->at != address) continue;
        Allocation *gone = *a;
        *a = gone->next;
        free(gone->at);
        free(gone);
        code = CUDA_SUCCESS;
        break;
    }
    pthread_mutex_unlock(&lock);
    return code;
}

static int copy(void *to, const void *from, const void *device, size_t bytes) {
    if (!current) return CUDA_NO_CONTEXT;
    pthread_mutex_lock(&lock);
    int ok = allocated(device, bytes);
    if (ok) memcpy(to, from, bytes);
    pthread_mutex_unlock(&lock);
    return ok ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) {
    return copy((void *)(uintptr_t)to, from, (void *)(uintptr_t)to, bytes);
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) {
    return copy(to, (void *)(uintptr_t)from, (void *)(uintptr_t)from, bytes);
}

/* NCCL. */

enum { NCCL_SUCCESS, NCCL_CUDA = 1, NCCL_INVALID_ARGUMENT = 4, NCCL_INVALID_USAGE = 5, NCCL_REMOTE = 6, NCCL_IN_PROGRESS = 7 };
enum { SUM = 0, MAX = 2, MIN = 3 };
enum Kind { ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, REDUCE, BROADCAST, SEND, RECEIVE };

typedef struct { char bytes[128]; } Id;
typedef struct { size_t size; unsigned magic, version; int blocking; } Config;
typedef struct { enum Kind kind; const void *in; void *out; size_t count; int dtype, op, peer; long order; } Part;
typedef struct Slot { struct Slot *next; long order; int posted, done; Part parts[RANKS]; } Slot;
typedef struct Message { struct Message *next; int from, to, taken; long order; Part part; } Message;
typedef struct Clique { struct Clique *next; Id id; int size, joined, broken; struct Comm *comms[RANKS]; Slot *slots; Message *messages; } Clique;
typedef struct Comm {
    Clique *clique;
    uintptr_t device;
    int rank, blocking, aborted, gone, finalizing, launching, running, error;
    long collectives, sends[RANKS], receives[RANKS];
} Comm;
typedef struct Batch { Comm *comm; Stream *stream; int count; Part parts[]; } Batch;

static Clique *cliques;
static __thread int depth;
static __thread Batch *group;
static __thread const char *complaint = "";

static int complain(int code, const char *text) { complaint = text; return code; }

static size_t width(int dtype) {
    switch (dtype) {
    case 1: return 1;
    case 6: case 9: return 2;
    case 2: case 7: return 4;
    default: return 8;
    }
}

static float from_brain(uint16_t x) { uint32_t bits = (uint32_t)x << 16; float f; memcpy(&f, &bits, 4); return f; }
static uint16_t to_brain(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if (f != f) return 0x7fc0;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

#define FOLD(a, b) (op == SUM ? (a) + (b) : op == MAX ? ((b) > (a) ? (b) : (a)) : ((b) < (a) ? (b) : (a)))
#define EACH(type) for (size_t i = 0; i < n; i++) { type *a = sum, b = ((const type *)more)[i]; a[i] = (type)FOLD(a[i], b); } break

static void fold(void *sum, const void *more, size_t n, int dtype, int op) {
    switch (dtype) {
    case 1: EACH(uint8_t);
    case 2: EACH(int32_t);
    case 4: EACH(int64_t);
    case 6: EACH(_Float16);
    case 7: EACH(float);
    case 8: EACH(double);
    case 9:
        for (size_t i = 0; i < n; i++) {
            uint16_t *a = sum;
            float x = from_brain(a[i]), y = from_brain(((const uint16_t *)more)[i]);
            a[i] = to_brain(FOLD(x, y));
        }
        break;
    default: abort();
    }
}

static void hang(Comm *comm) {
    while (!comm->aborted) pthread_cond_wait(&news, &lock);
}

/* What a rank reads and writes. */
static size_t read_len(const Part *p, int rank, int size) {
    if (p->kind == RECEIVE || (p->kind == BROADCAST && p->peer != rank)) return 0;
    return p->kind == REDUCE_SCATTER ? p->count * size : p->count;
}
static size_t write_len(const Part *p, int rank, int size) {
    if (p->kind == SEND || (p->kind == REDUCE && p->peer != rank)) return 0;
    return p->kind == ALL_GATHER ? p->count * size : p->count;
}
static int in_memory(Comm *comm, const Part *p) {
    size_t w = width(p->dtype);
    int ok = allocated(p->in, read_len(p, comm->rank, comm->clique->size) * w)
        && allocated(p->out, write_len(p, comm->rank, comm->clique->size) * w);
    if (!ok) comm->error = NCCL_CUDA;
    return ok;
}

static Slot *slot_of(Clique *clique, long order) {
    Slot *slot = clique->slots;
    while (slot && slot->order != order) slot = slot->next;
    if (!slot) {
        slot = calloc(1, sizeof *slot);
        slot->order = order;
        slot->next = clique->slots;
        clique->slots = slot;
    }
    return slot;
}

static int agree(const Slot *slot, int size) {
    const Part *a = &slot->parts[0];
    for (int i = 1; i < size; i++) {
        const Part *b = &slot->parts[i];
        if (a->kind != b->kind || a->count != b->count || a->dtype != b->dtype || a->op != b->op || a->peer != b->peer) return 0;
    }
    return a->count != BREAKS && a->count != STALLS;
}

static void collective(Comm *comm, const Part *part) {
    Clique *clique = comm->clique;
    int size = clique->size, rank = comm->rank;
    Slot *slot = slot_of(clique, part->order);
    slot->parts[rank] = *part;
    slot->posted++;
    pthread_cond_broadcast(&news);
    while (!comm->aborted && slot->posted < size) pthread_cond_wait(&news, &lock);
    if (part->count == BREAKS && rank == 1) comm->error = NCCL_REMOTE;
    if (comm->aborted || !agree(slot, size) || clique->broken) { hang(comm); return; }
    size_t w = width(part->dtype), n = part->count;
    size_t bytes = write_len(part, rank, size) * w;
    char *result = malloc(bytes + 1);
    const Part *parts = slot->parts;
    size_t offset = part->kind == REDUCE_SCATTER ? rank * n * w : 0;
    switch (part->kind) {
    case BROADCAST: memcpy(result, parts[part->peer].in, bytes); break;
    case ALL_GATHER:
        for (int i = 0; i < size; i++) memcpy(result + i * n * w, parts[i].in, n * w);
        break;
    default:
        if (!bytes) break;
        memcpy(result, (const char *)parts[size - 1].in + offset, bytes);
        for (int i = size - 2; i >= 0; i--) fold(result, (const char *)parts[i].in + offset, n, part->dtype, part->op);
    }
    /* Nobody writes, or goes on and frees its input, before all have read. */
    slot->done++;
    pthread_cond_broadcast(&news);
    while (!comm->aborted && slot->done < size) pthread_cond_wait(&news, &lock);
    if (!comm->aborted) memcpy(part->out, result, bytes);
    free(result);
}

static void receive(Comm *comm, const Part *part) {
    Message *m = NULL;
    while (!comm->aborted) {
        for (m = comm->clique->messages; m; m = m->next)
            if (m->from == part->peer && m->to == comm->rank && m->order == part->order) break;
        if (m) break;
        pthread_cond_wait(&news, &lock);
    }
    if (comm->aborted) return;
    if (comm->clique->broken) { hang(comm); return; }
    if (m->part.count != part->count || m->part.dtype != part->dtype) { hang(comm); return; }
    memcpy(part->out, m->part.in, part->count * width(part->dtype));
    m->taken = 1;
    pthread_cond_broadcast(&news);
}

/* Runs on a stream's thread, which holds the lock. */
static void run_batch(void *data) {
    Batch *batch = data;
    Comm *comm = batch->comm;
    int rank = comm->rank, sent = 0;
    Message *messages[2 * RANKS];
    for (int i = 0; i < batch->count && !comm->aborted; i++)
        if (!in_memory(comm, &batch->parts[i])) hang(comm);
    for (int i = 0; i < batch->count; i++) {
        Part *part = &batch->parts[i];
        if (part->kind != SEND || comm->aborted) continue;
        Message *m = calloc(1, sizeof *m);
        m->from = rank;
        m->to = part->peer;
        m->order = part->order;
        m->part = *part;
        m->next = comm->clique->messages;
        comm->clique->messages = m;
        messages[sent++] = m;
    }
    pthread_cond_broadcast(&news);
    for (int i = 0; i < batch->count && !comm->aborted; i++) {
        Part *part = &batch->parts[i];
        if (part->kind == RECEIVE) receive(comm, part);
        else if (part->kind != SEND) collective(comm, part);
    }
    for (int i = 0; i < sent; i++)
        while (!comm->aborted && !messages[i]->taken) pthread_cond_wait(&news, &lock);
    comm->running--;
    free(batch);
    pthread_cond_broadcast(&news);
}

static void *launch(void *data) {
    Batch *batch = data;
    usleep(LAUNCH_US);
    pthread_mutex_lock(&lock);
    enqueue(batch->stream, (Work){.run = run_batch, .data = batch});
    batch->comm->launching = 0;
    pthread_cond_broadcast(&news);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static int state_of(Comm *comm) {
    if (comm->error) return comm->error;
    if (comm->clique->joined < comm->clique->size || comm->launching) return NCCL_IN_PROGRESS;
    return comm->finalizing && comm->running ? NCCL_IN_PROGRESS : NCCL_SUCCESS;
}

int ncclGetVersion(int *version) { *version = 22304; return NCCL_SUCCESS; }

const char *ncclGetErrorString(int code) {
    switch (code) {
    case NCCL_CUDA: return "unhandled cuda error";
    case NCCL_INVALID_ARGUMENT: return "invalid argument";
    case NCCL_INVALID_USAGE: return "invalid usage";
    case NCCL_REMOTE: return "remote process exited or there was a network error";
    default: return "internal error";
    }
}

const char *ncclGetLastError(Comm *comm) { (void)comm; return complaint; }

int ncclGetUniqueId(Id *id) {
    static long count;
    pthread_mutex_lock(&lock);
    memset(id, 0, sizeof *id);
    snprintf(id->bytes, sizeof id->bytes, "%d.%ld", (int)getpid(), ++count);
    pthread_mutex_unlock(&lock);
    return NCCL_SUCCESS;
}

int ncclCommInitRankConfig(Comm **out, int size, Id id, int rank, Config *config) {
    if (!current) return complain(NCCL_INVALID_USAGE, "no current device");
    if (config->magic != 0xcafebeef) return complain(NCCL_INVALID_ARGUMENT, "configuration not initialised");
    if (rank < 0 || rank >= size || size > RANKS) return complain(NCCL_INVALID_ARGUMENT, "no such rank");
    pthread_mutex_lock(&lock);
    Clique *clique = cliques;
    while (clique && memcmp(&clique->id, &id, sizeof id)) clique = clique->next;
    if (!clique) {
        clique = calloc(1, sizeof *clique);
        clique->id = id;
        clique->size = size;
        clique->next = cliques;
        cliques = clique;
    }
    int code = NCCL_IN_PROGRESS;
    if (clique->size != size || clique->comms[rank]) code = complain(NCCL_INVALID_ARGUMENT, "another size, or a rank twice");
    for (int i = 0; i < size; i++)
        if (clique->comms[i] && clique->comms[i]->device == current) code = complain(NCCL_INVALID_USAGE, "Duplicate GPU detected");
    if (code == NCCL_IN_PROGRESS) {
        Comm *comm = calloc(1, sizeof *comm);
        *comm = (Comm){.clique = clique, .rank = rank, .device = current, .blocking = config->blocking != 0};
        clique->comms[rank] = comm;
        clique->joined++;
        pthread_cond_broadcast(&news);
        while (comm->blocking && clique->joined < size) pthread_cond_wait(&news, &lock);
        if (comm->blocking) code = NCCL_SUCCESS;
        *out = comm;
    }
    pthread_mutex_unlock(&lock);
    return code;
}

int ncclCommGetAsyncError(Comm *comm, int *state) {
    pthread_mutex_lock(&lock);
    int gone = comm->gone;
    *state = state_of(comm);
    pthread_mutex_unlock(&lock);
    return gone ? complain(NCCL_INVALID_ARGUMENT, "communicator used after its end") : NCCL_SUCCESS;
}

int ncclCommFinalize(Comm *comm) {
    pthread_mutex_lock(&lock);
    int code = comm->gone || state_of(comm) == NCCL_IN_PROGRESS ? NCCL_INVALID_USAGE : NCCL_IN_PROGRESS;
    comm->finalizing = 1;
    pthread_mutex_unlock(&lock);
    return code;
}

/* Communicators stay, so that use after the end is seen as such. */
int ncclCommDestroy(Comm *comm) {
    pthread_mutex_lock(&lock);
    int code = comm->gone || !comm->finalizing || comm->running ? NCCL_INVALID_USAGE : NCCL_SUCCESS;
    comm->gone = 1;
    pthread_mutex_unlock(&lock);
    return code;
}

int ncclCommAbort(Comm *comm) {
    pthread_mutex_lock(&lock);
    int code = comm->gone ? NCCL_INVALID_USAGE : NCCL_SUCCESS;
    comm->aborted = comm->gone = 1;
    /* A peer must not read what this rank frees from now on. */
    comm->clique->broken = 1;
    pthread_cond_broadcast(&news);
    while (comm->launching) pthread_cond_wait(&news, &lock);
    pthread_mutex_unlock(&lock);
    return code;
}

int ncclGroupStart(void) { depth++; return NCCL_SUCCESS; }

int ncclGroupEnd(void) {
    if (!depth) return complain(NCCL_INVALID_USAGE, "no group is open");
    if (--depth || !group) return NCCL_SUCCESS;
    Batch *batch = group;
    Comm *comm = batch->comm;
    group = NULL;
    pthread_mutex_lock(&lock);
    comm->running++;
    if (comm->blocking) enqueue(batch->stream, (Work){.run = run_batch, .data = batch});
    else comm->launching = 1;
    pthread_mutex_unlock(&lock);
    if (comm->blocking) return NCCL_SUCCESS;
    start(launch, batch);
    return NCCL_IN_PROGRESS;
}

static int call(Comm *comm, Stream *stream, Part part) {
    pthread_mutex_lock(&lock);
    int busy = comm->gone || comm->finalizing || state_of(comm) != NCCL_SUCCESS;
    pthread_mutex_unlock(&lock);
    if (busy) return complain(NCCL_INVALID_USAGE, "the communicator is not ready for a call");
    if (current != comm->device) return complain(NCCL_INVALID_USAGE, "another device is current");
    if (part.peer < 0 || part.peer >= comm->clique->size) return complain(NCCL_INVALID_ARGUMENT, "no such peer");
    ncclGroupStart();
    if (group && (group->comm != comm || group->stream != stream)) abort();
    int count = group ? group->count : 0;
    if (count >= 2 * RANKS) abort();
    group = realloc(group, sizeof *group + (count + 1) * sizeof part);
    group->comm = comm;
    group->stream = stream;
    part.order = part.kind == SEND ? comm->sends[part.peer]++
        : part.kind == RECEIVE ? comm->receives[part.peer]++ : comm->collectives++;
    group->parts[count] = part;
    group->count = count + 1;
    int code = ncclGroupEnd();
    return code == NCCL_IN_PROGRESS ? NCCL_SUCCESS : code;
}

int ncclAllReduce(const void *in, void *out, size_t count, int dtype, int op, Comm *comm, Stream *stream) {
    return call(comm, stream, (Part){ALL_REDUCE, in, out, count, dtype, op, 0, 0});
}
int ncclAllGather(const void *in, void *out, size_t count, int dtype, Comm *comm, Stream *stream) {
    return call(comm, stream, (Part){ALL_GATHER, in, out, count, dtype, 0, 0, 0});
}
int ncclReduceScatter(const void *in, void *out, size_t count, int dtype, int op, Comm *comm, Stream *stream) {
    return call(comm, stream, (Part){REDUCE_SCATTER, in, out, count, dtype, op, 0, 0});
}
int ncclReduce(const void *in, void *out, size_t count, int dtype, int op, int root, Comm *comm, Stream *stream) {
    return call(comm, stream, (Part){REDUCE, in, out, count, dtype, op, root, 0});
}
int ncclBroadcast(const void *in, void *out, size_t count, int dtype, int root, Comm *comm, Stream *stream) {
    return call(comm, stream, (Part){BROADCAST, in, out, count, dtype, 0, root, 0});
}
int ncclSend(const void *in, size_t count, int dtype, int peer, Comm *comm, Stream *stream) {
    return call(comm, stream, (Part){SEND, in, NULL, count, dtype, 0, peer, 0});
}
int ncclRecv(void *out, size_t count, int dtype, int peer, Comm *comm, Stream *stream) {
    return call(comm, stream, (Part){RECEIVE, NULL, out, count, dtype, 0, peer, 0});
}
