/* The rest of a CUDA driver, for Burn to start on: beside the stand-in for NCCL, whose memory, streams
 * and events these functions share.
 *
 * Devices are H100s in name (COMPUTE=80, 90 or 100 in the environment says otherwise), so that NVRTC is
 * given every kernel for real. Modules are accepted if they are PTX, and launches do nothing: what was
 * uploaded, copied and sent is right, and what a kernel should have written is not. At the end the
 * numbers of both are said on stderr if STANDIN_REPORT is set.
 */
#define cuMemAlloc_v2 allocate
#include "../../../kinora-comm/tests/standin/nccl.c"
#undef cuMemAlloc_v2

/* Zeros, which are numbers to whoever reads what no kernel has written. */
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    int code = allocate(address, bytes);
    if (code == CUDA_SUCCESS) memset((void *)(uintptr_t)*address, 0, bytes);
    return code;
}

typedef unsigned long long Address;
typedef void *Handle;

static int modules, launches;

__attribute__((destructor)) static void report(void) {
    if (getenv("STANDIN_REPORT") && modules)
        fprintf(stderr, "stand-in: %d modules of kernels, %d launches\n", modules, launches);
}

static int compute(void) {
    const char *text = getenv("COMPUTE");
    return text ? atoi(text) : 90;
}

static int some(Handle *handle) {
    static long next = 0x2000;
    *handle = (Handle)__sync_add_and_fetch(&next, 16);
    return CUDA_SUCCESS;
}

int cuDriverGetVersion(int *version) { *version = 13000; return CUDA_SUCCESS; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "NVIDIA H100 (stand-in %d)", device); return CUDA_SUCCESS; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = 8ull << 30; return CUDA_SUCCESS; }
int cuDeviceGetPCIBusId(char *name, int size, int device) { snprintf(name, size, "0000:%02x:00.0", device); return CUDA_SUCCESS; }
int cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, 0, 16); uuid[0] = (char)device; return CUDA_SUCCESS; }

/* By the numbers of CUdevice_attribute. */
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
    case 1: case 2: case 3: *value = 1024; break; /* threads of a block, in x and y */
    case 4: *value = 64; break;
    case 5: *value = 2147483647; break; /* blocks of a grid */
    case 6: case 7: *value = 65535; break;
    case 8: *value = 49152; break; /* shared memory */
    case 10: *value = 32; break; /* threads of a warp */
    case 16: *value = 132; break; /* multiprocessors */
    case 75: *value = compute() / 10; break;
    case 76: *value = compute() % 10; break;
    case 97: *value = compute() >= 90 ? 232448 : 101376; break; /* shared memory, if asked for */
    case 115: *value = 1; break; /* memory pools */
    default: *value = 0;
    }
    return CUDA_SUCCESS;
}

int cuCtxGetCurrent(uintptr_t *context) { *context = current; return CUDA_SUCCESS; }
int cuCtxSynchronize(void) { return current ? CUDA_SUCCESS : CUDA_NO_CONTEXT; }
int cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return CUDA_SUCCESS; }

int cuStreamCreateWithPriority(Stream **stream, unsigned flags, int priority) { (void)priority; return cuStreamCreate(stream, flags); }

int cuEventSynchronize(Event *event) {
    while (cuEventQuery(event) == CUDA_NOT_READY) usleep(20);
    return CUDA_SUCCESS;
}

int cuStreamSynchronize(Stream *stream) {
    Event *end;
    int code = cuEventCreate(&end, 0);
    if (code != CUDA_SUCCESS) return code;
    cuEventRecord(end, stream);
    return cuEventSynchronize(end);
}

int cuStreamQuery(Stream *stream) {
    pthread_mutex_lock(&lock);
    int busy = stream->first != NULL;
    pthread_mutex_unlock(&lock);
    return busy ? CUDA_NOT_READY : CUDA_SUCCESS;
}

int cuEventElapsedTime(float *ms, Event *from, Event *to) { (void)from; (void)to; *ms = 0.01f; return CUDA_SUCCESS; }
int cuEventElapsedTime_v2(float *ms, Event *from, Event *to) { return cuEventElapsedTime(ms, from, to); }

int cuMemAllocAsync(uint64_t *address, size_t bytes, Stream *stream) { (void)stream; return cuMemAlloc_v2(address, bytes); }
int cuMemFreeAsync(uint64_t address, Stream *stream) { cuStreamSynchronize(stream); return cuMemFree_v2(address); }
int cuMemAllocHost_v2(void **memory, size_t bytes) { *memory = calloc(1, bytes ? bytes : 1); return CUDA_SUCCESS; }
int cuMemFreeHost(void *memory) { free(memory); return CUDA_SUCCESS; }

/* Copies are done when they are enqueued, but not before what the stream has to do. */
static int after(Stream *stream, void *to, const void *from, const void *device, size_t bytes) {
    int code = cuStreamSynchronize(stream);
    return code == CUDA_SUCCESS ? copy(to, from, device, bytes) : code;
}

int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, Stream *stream) {
    return after(stream, (void *)to, from, (void *)to, bytes);
}

int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, Stream *stream) {
    return after(stream, to, (void *)from, (void *)from, bytes);
}

int cuMemcpyDtoD_v2(Address to, Address from, size_t bytes) {
    return copy((void *)to, (void *)from, (void *)to, bytes);
}

int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Stream *stream) {
    return after(stream, (void *)to, (void *)from, (void *)to, bytes);
}

typedef struct {
    size_t from_x, from_y;
    int from_kind;
    const char *from_host;
    Address from_device;
    void *from_array;
    size_t from_pitch, to_x, to_y;
    int to_kind;
    char *to_host;
    Address to_device;
    void *to_array;
    size_t to_pitch, width, height;
} Copy2D;

int cuMemcpy2DAsync_v2(const Copy2D *what, Stream *stream) {
    int code = cuStreamSynchronize(stream);
    const char *from = what->from_kind == 1 ? what->from_host : (char *)what->from_device;
    char *to = what->to_kind == 1 ? what->to_host : (char *)what->to_device;
    for (size_t y = 0; y < what->height && code == CUDA_SUCCESS; y++) {
        char *row = to + (what->to_y + y) * what->to_pitch + what->to_x;
        const char *source = from + (what->from_y + y) * what->from_pitch + what->from_x;
        code = copy(row, source, what->to_kind == 1 ? source : row, what->width);
    }
    return code;
}

int cuModuleLoadData(Handle *module, const void *ptx) {
    if (!strstr(ptx, ".target")) return 218;
    __sync_add_and_fetch(&modules, 1);
    return some(module);
}

int cuModuleUnload(Handle module) { (void)module; return CUDA_SUCCESS; }
int cuModuleGetFunction(Handle *function, Handle module, const char *name) { (void)module; (void)name; return some(function); }
int cuFuncSetAttribute(Handle function, int attribute, int value) { (void)function; (void)attribute; (void)value; return CUDA_SUCCESS; }

int cuLaunchKernel(Handle function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared, Stream *stream, void **arguments, void **extra) {
    (void)function; (void)x; (void)y; (void)z; (void)bx; (void)by; (void)bz; (void)shared; (void)stream; (void)arguments; (void)extra;
    __sync_add_and_fetch(&launches, 1);
    return CUDA_SUCCESS;
}

int cuLaunchKernelEx(void *config, Handle function, void **arguments, void **extra) {
    (void)config; (void)function; (void)arguments; (void)extra;
    __sync_add_and_fetch(&launches, 1);
    return CUDA_SUCCESS;
}

int cuTensorMapEncodeTiled(void *map) { (void)map; return CUDA_SUCCESS; }
int cuGetErrorName(int code, const char **text) { (void)code; *text = "STANDIN"; return CUDA_SUCCESS; }

/* NVRTC asks the driver for private tables, and the bindings for newer versions: there are none. */
int cuGetExportTable(const void **table, const void *id) { (void)id; *table = NULL; return 500; }
int cuGetProcAddress(const char *name, void **function, int version, unsigned long long flags) { (void)name; (void)version; (void)flags; *function = NULL; return 500; }
int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, void *status) { (void)status; return cuGetProcAddress(name, function, version, flags); }
