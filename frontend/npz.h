/* npz.h - NumPy files: .npy (format 1.0 to 3.0, C and Fortran order, little and big endian) and .npz (zip of .npy, stored or deflated).
 * Hostile input: sizes are checked against the file before memory is taken. */
#ifndef OCTET_NPZ_H
#define OCTET_NPZ_H
#include "frontend/file.h"
#include "ir/tensor.h"

typedef struct NamedTensor { const char *name; const Tensor *tensor; } NamedTensor;
typedef VEC(NamedTensor) NamedTensors;
const Tensor *npy_read(Arena *mem, Diag *diag, const char *path);                  /* NULL: reported */
/* The same, but elements are borrowed from the mapped file where they lie in it as they are wanted. */
const Tensor *npy_map(Arena *mem, Files *files, Diag *diag, const char *path);
bool npz_read(Arena *mem, Diag *diag, const char *path, NamedTensors *out);
bool npz_parse(Arena *mem, Diag *diag, const char *name, FileBytes f, NamedTensors *out); /* name: for messages */
bool npz_write(Diag *diag, const char *path, const NamedTensors *in);              /* atomically */
const NamedTensor *npz_find(const NamedTensors *t, const char *name);
#endif
