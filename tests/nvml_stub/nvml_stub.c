// A libnvidia-ml.so.1 whose machine is a text file, so that the real nvidia-ml-py can be tested with no NVIDIA hardware.
//
// The file named by DARKROOM_NVML_STUB_STATE is read again at every call: "KEY=VALUE" lines, written by tests/nvml_stub.
//   driver=550.54.15   count=2   <gpu>.<field>=<value>
// A field that is absent answers NOT_SUPPORTED; <gpu>.status=<code> makes every call on that GPU answer the code (15: lost).
// <gpu>.processes=<pid>:<bytes>,...  <gpu>.xids=<xid>,...: Xids appended after the registration are delivered, once each.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10 };
enum { GPUS = 8, VALUE = 1024, XID_EVENT = 8 };

typedef unsigned long long u64;
typedef struct { unsigned pid; u64 memory; unsigned gpu_instance, compute_instance; } Process;
typedef struct { void *device; u64 type, data; unsigned gpu_instance, compute_instance; } Event;

static int watched[GPUS], delivered[GPUS];

// Copies the value of a key; answers whether it is there.
static int lookup(const char *key, char *value) {
    const char *path = getenv("DARKROOM_NVML_STUB_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    size_t length = strlen(key);
    char line[VALUE];
    int found = 0;
    while (file && !found && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            line[strcspn(line, "\n")] = 0;
            strcpy(value, line + length + 1);
            found = 1;
        }
    }
    if (file) fclose(file);
    return found;
}

// A device's handle is its index + 1.
static int text(void *device, const char *field, char *value) {
    char key[64];
    snprintf(key, sizeof key, "%d.status", (int)(size_t)device - 1);
    if (lookup(key, value)) return atoi(value);
    snprintf(key, sizeof key, "%d.%s", (int)(size_t)device - 1, field);
    return lookup(key, value) ? SUCCESS : NOT_SUPPORTED;
}

static int number(void *device, const char *field, u64 *out) {
    char value[VALUE];
    int code = text(device, field, value);
    if (code == SUCCESS) *out = strtoull(value, NULL, 10);
    return code;
}

static int number32(void *device, const char *field, unsigned *out) {
    u64 wide = 0;
    int code = number(device, field, &wide);
    if (code == SUCCESS) *out = (unsigned)wide;
    return code;
}

static int copied(void *device, const char *field, char *out, unsigned size) {
    char value[VALUE];
    int code = text(device, field, value);
    if (code == SUCCESS) snprintf(out, size, "%s", value);
    return code;
}

int nvmlInitWithFlags(unsigned flags) {
    char value[VALUE];
    return lookup("count", value) ? SUCCESS : DRIVER_NOT_LOADED;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }

int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    char value[VALUE];
    if (!lookup("driver", value)) return NOT_SUPPORTED;
    snprintf(out, size, "%s", value);
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *out) {
    char value[VALUE];
    if (!lookup("count", value)) return DRIVER_NOT_LOADED;
    *out = (unsigned)atoi(value);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    unsigned count = 0;
    int code = nvmlDeviceGetCount_v2(&count);
    if (code != SUCCESS) return code;
    if (index >= count || index >= GPUS) return INVALID_ARGUMENT;
    *device = (void *)(size_t)(index + 1);
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *out, unsigned size) { return copied(device, "name", out, size); }
int nvmlDeviceGetUUID(void *device, char *out, unsigned size) { return copied(device, "uuid", out, size); }
int nvmlDeviceGetPowerUsage(void *device, unsigned *out) { return number32(device, "power", out); }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *out) { return number32(device, "temperature", out); }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, u64 *out) { return number(device, "throttle_reasons", out); }

int nvmlDeviceGetUtilizationRates(void *device, unsigned out[2]) {
    int code = number32(device, "utilization", &out[0]);
    return code == SUCCESS ? number32(device, "memory_utilization", &out[1]) : code;
}

int nvmlDeviceGetMemoryInfo(void *device, u64 out[3]) {
    int code = number(device, "memory_total", &out[0]);
    if (code == SUCCESS) code = number(device, "memory_used", &out[2]);
    out[1] = out[0] - out[2];
    return code;
}

int nvmlDeviceGetTotalEccErrors(void *device, int type, int counter, u64 *out) {
    return type == 1 ? number(device, counter == 0 ? "ecc_volatile" : "ecc_aggregate", out) : NOT_SUPPORTED;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, Process *out) {
    char value[VALUE];
    unsigned found = 0;
    int code = text(device, "processes", value);
    if (code != SUCCESS) return code;
    for (char *item = strtok(value, ","); item; item = strtok(NULL, ","), ++found) {
        if (found >= *count) continue;
        out[found] = (Process){.pid = (unsigned)atoi(item), .memory = strtoull(strchr(item, ':') + 1, NULL, 10)};
    }
    code = found > *count ? INSUFFICIENT_SIZE : SUCCESS;
    *count = found;
    return code;
}

// Finds the Xid at a position; answers how many there are.
static int xids(int gpu, int position, u64 *out) {
    char value[VALUE];
    int found = 0;
    if (text((void *)(size_t)(gpu + 1), "xids", value) != SUCCESS) return 0;
    for (char *item = strtok(value, ","); item; item = strtok(NULL, ","), ++found)
        if (found == position) *out = strtoull(item, NULL, 10);
    return found;
}

int nvmlEventSetCreate(void **set) {
    *set = watched;
    return SUCCESS;
}

int nvmlDeviceRegisterEvents(void *device, u64 types, void *set) {
    char value[VALUE];
    int gpu = (int)(size_t)device - 1, code = text(device, "xids", value);
    if (code != SUCCESS) return code;
    watched[gpu] = types == XID_EVENT;
    delivered[gpu] = xids(gpu, -1, NULL);
    return SUCCESS;
}

int nvmlEventSetWait_v2(void *set, Event *out, unsigned timeout_ms) {
    for (int gpu = 0; gpu < GPUS; ++gpu) {
        void *device = (void *)(size_t)(gpu + 1);
        u64 xid = 0;
        if (!watched[gpu] || xids(gpu, delivered[gpu], &xid) <= delivered[gpu]) continue;
        ++delivered[gpu];
        *out = (Event){.device = device, .type = XID_EVENT, .data = xid};
        return SUCCESS;
    }
    return TIMEOUT;
}

int nvmlEventSetFree(void *set) {
    memset(watched, 0, sizeof watched);
    return SUCCESS;
}
