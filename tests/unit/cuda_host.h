/* cuda_host.h - the texts of cuda_emit() as a library whose kernels can be called: on the CPU behind tests/cuda/shim.h, or on a GPU,
 * where this machine has one, through nvcc behind tests/cuda/gpu.h. */
#ifndef CUDA_HOST_H
#define CUDA_HOST_H
#include "codegen/cuda/cuda.h"
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct CudaHost {
    const char *header, *file, *compiler;
    const char *present, *absent; /* a command that succeeds where it can be used; why a test is left out elsewhere */
} CudaHost;
static const CudaHost cuda_shim = {"tests/cuda/shim.h", "k.cc", "c++ -std=c++17 -O1 -w -fwrapv -ffp-contract=off -fPIC", "c++ --version",
                                   "no C++ compiler"};
static const CudaHost cuda_gpu = {"tests/cuda/gpu.h", "k.cu", "nvcc -std=c++17 -arch=native -w -fmad=false -Xcompiler -fPIC",
                                  "nvidia-smi -L && nvcc --version", "no GPU, or no nvcc"};

static inline bool cuda_host_present(const CudaHost *h)
{
    char command[200];
    snprintf(command, sizeof command, "(%s) > /dev/null 2>&1", h->present);
    return system(command) == 0;
}

static inline void cuda_host_write(const char *folder, const char *name, const char *head, const char *text)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    cr_assert(f, "%s", path);
    fputs(head, f), fputs(text, f), fclose(f);
}

/* Run from the source folder. */
static inline void *cuda_host_library(const CudaHost *h, const char *text)
{
    char folder[] = "/tmp/octet-cuda-XXXXXX", include[100], command[1000];
    cr_assert(mkdtemp(folder));
    snprintf(include, sizeof include, "#include \"%s\"\n", h->header);
    cuda_host_write(folder, "octet_device.h", include, cuda_prelude);
    cuda_host_write(folder, h->file, "", text);
    snprintf(command, sizeof command, "%s -DOCTET_HOST -I. -I%s -shared -o %s/k.so %s/%s", h->compiler, folder, folder, folder, h->file);
    int rc = system(command);
    snprintf(command, sizeof command, "%s/k.so", folder);
    void *library = rc ? NULL : dlopen(command, RTLD_NOW);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert(system(command) == 0 && library, "the text does not compile");
    return library;
}

static inline void cuda_host_find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    cr_assert(symbol, "no %s", name);
    memcpy(function, &symbol, sizeof symbol); /* what POSIX says a dlsym'ed function is */
}

enum { CUDA_HOST_BUFS = 96 };

/* Runs a kernel on copies of its buffers and copies them back; its status. */
static inline int cuda_host_run(void *library, const char *kernel, const int64_t *size, void *const *buf, const size_t *bytes, uint32_t bufs)
{
    void *at[CUDA_HOST_BUFS], *(*put)(const void *, size_t), (*take)(void *, void *, size_t);
    int (*run)(const int64_t *, void *const *);
    char name[200];
    cr_assert(bufs <= CUDA_HOST_BUFS);
    snprintf(name, sizeof name, "run_%s", kernel);
    cuda_host_find(library, name, &run), cuda_host_find(library, "device_put", &put), cuda_host_find(library, "device_take", &take);
    for (uint32_t b = 0; b < bufs; b++) at[b] = put(buf[b], bytes[b]);
    int status = run(size, at);
    for (uint32_t b = 0; b < bufs; b++) take(buf[b], at[b], bytes[b]);
    return status;
}
#endif
