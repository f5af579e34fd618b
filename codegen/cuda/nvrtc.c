/* nvrtc.c - CUDA C++ text to a cubin or PTX through NVRTC, opened when it is asked for: the compiler does not link it,
 * and without it everything but --target cuda works. */
#include "codegen/cuda/cuda.h"
#include <dlfcn.h>

typedef struct Program *Handle;
typedef struct Nvrtc {
    void *library;
    int (*create)(Handle *, const char *text, const char *name, int headers, const char *const *header,
                  const char *const *header_name);
    int (*compile)(Handle, int options, const char *const *option);
    int (*log_size)(Handle, size_t *), (*log)(Handle, char *);
    int (*cubin_size)(Handle, size_t *), (*cubin)(Handle, char *);
    int (*ptx_size)(Handle, size_t *), (*ptx)(Handle, char *);
    int (*destroy)(Handle *);
} Nvrtc;

static void *open_library(const char *library)
{
    static const char *const usual[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so",
                                        "/usr/local/cuda/lib64/libnvrtc.so"};
    if (library) return dlopen(library, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; i < COUNT_OF(usual); i++) {
        void *h = dlopen(usual[i], RTLD_NOW | RTLD_LOCAL);
        if (h) return h;
    }
    return NULL;
}

static bool find(const Nvrtc *n, void *function, const char *name)
{
    void *p = dlsym(n->library, name);
    memcpy(function, &p, sizeof p); /* what POSIX says a dlsym'ed function is */
    return p != NULL;
}

static bool nvrtc_open(Nvrtc *n, const char *library)
{
    *n = (Nvrtc){.library = open_library(library)};
    return n->library && find(n, &n->create, "nvrtcCreateProgram") && find(n, &n->compile, "nvrtcCompileProgram") &&
           find(n, &n->log_size, "nvrtcGetProgramLogSize") && find(n, &n->log, "nvrtcGetProgramLog") &&
           find(n, &n->cubin_size, "nvrtcGetCUBINSize") && find(n, &n->cubin, "nvrtcGetCUBIN") &&
           find(n, &n->ptx_size, "nvrtcGetPTXSize") && find(n, &n->ptx, "nvrtcGetPTX") &&
           find(n, &n->destroy, "nvrtcDestroyProgram");
}

bool nvrtc_present(const char *library)
{
    Nvrtc n;
    bool ok = nvrtc_open(&n, library);
    if (n.library) dlclose(n.library);
    return ok;
}

static bool take(Arena *mem, Handle p, int (*size)(Handle, size_t *), int (*get)(Handle, char *), Bytes *out)
{
    size_t n = 0;
    if (size(p, &n) != 0) return false;
    char *at = arena_alloc(mem, n + 1);
    *out = (Bytes){at, n};
    return get(p, at) == 0;
}

static bool compile(Arena *mem, Diag *diag, const Nvrtc *n, const char *text, const char *arch, Bytes *out)
{
    const char *names[] = {"octet_device.h"}, *headers[] = {cuda_prelude};
    const char *options[] = {arena_printf(mem, "-arch=%s", arch), "-std=c++17", "-default-device", "--fmad=false"};
    Handle p = NULL;
    Bytes log = {"", 0};
    if (n->create(&p, text, "octet.cu", 1, headers, names) != 0) return diag_error(diag, NULL, "NVRTC does not start");
    bool ok = n->compile(p, (int)COUNT_OF(options), options) == 0;
    bool cubin = strncmp(arch, "compute_", 8) != 0;
    if (!ok && take(mem, p, n->log_size, n->log, &log))
        diag_error(diag, NULL, "NVRTC for %s: %s", arch, (const char *)log.at);
    if (ok)
        ok = take(mem, p, cubin ? n->cubin_size : n->ptx_size, cubin ? n->cubin : n->ptx, out) ||
             diag_error(diag, NULL, "NVRTC gives no code for %s", arch);
    n->destroy(&p);
    return ok;
}

bool nvrtc_compile(Arena *mem, Diag *diag, const char *library, const char *text, const char *arch, Bytes *out)
{
    Nvrtc n;
    bool ok = nvrtc_open(&n, library);
    if (!ok) diag_error(diag, NULL, "libnvrtc was not found: CUDA code needs NVRTC 12 or 13");
    else ok = compile(mem, diag, &n, text, arch, out);
    if (n.library) dlclose(n.library);
    return ok;
}
