/* cuda.h - the CUDA side of code generation: kernels as CUDA C++ text (cuda_emit, codegen.h) and NVRTC, opened at run
 * time. */
#ifndef OCTET_CUDA_H
#define OCTET_CUDA_H
#include "codegen/codegen.h"

/* What kernel texts include as "octet_device.h": types, conversions and the helpers that prim.def's templates name.
 * The same text serves NVRTC and, behind tests/cuda/shim.h, a host C++ compiler. */
extern const char *const cuda_prelude;

/* Compiles a text for an architecture such as "sm_90" to a cubin, or for "compute_80" to PTX. library: a path, or NULL
 * to look in the usual places. false: reported; NVRTC missing is reported by name. */
bool nvrtc_compile(Arena *mem, Diag *diag, const char *library, const char *text, const char *arch, Bytes *out);
bool nvrtc_present(const char *library);
#endif
