/* file.h - files as bytes: mapped where somebody keeps the mapping, read otherwise; "-" is standard input. And files that
 * appear whole or not at all. */
#ifndef OCTET_FILE_H
#define OCTET_FILE_H
#include "ir/base/diag.h"

typedef struct FileBytes {
    const uint8_t *at;
    size_t n;
} FileBytes;
typedef struct Files {
    Arena *mem;
    VEC(FileBytes) mapped;
    VEC(const char *) path; /* beside mapped: a file named twice is mapped once */
} Files;

bool file_bytes(Arena *mem, Files *files, Diag *d, const char *path, FileBytes *out); /* false: reported */
/* A file below `folder`, for a name found inside a model: relative, no "..", no symbolic link anywhere, a regular file. */
bool file_below(Arena *mem, Files *files, Diag *d, const Loc *loc, const char *folder, const char *name,
                FileBytes *out);
/* Bytes of a mapped file that have been copied: their pages need not stay in memory, they come back when they are touched. */
void files_forget(const Files *f, const uint8_t *at, size_t n);
void files_rest(const Files *f); /* the same for all that is mapped and for what lies in f->mem; f may be NULL */
void files_drop(Files *f); /* unmaps; what was borrowed is gone */

const char *temporary_base(void); /* the folder for temporaries: TMPDIR or /tmp */

/* Writes n bytes to path: a temporary beside it, then renamed. "-": standard output; a device or pipe is written in place.
 * false: reported. */
bool file_write(Arena *mem, Diag *d, const char *path, const void *at, size_t n);
/* The same for a stream: create, write, then commit, which renames when ok and removes otherwise. */
FILE *file_create(Arena *mem, Diag *d, const char *path, const char **temporary); /* NULL: reported; temporary NULL: in place */
bool file_commit(Diag *d, FILE *f, const char *temporary, const char *path,
                 bool ok); /* ok, unless writing failed: reported */
#endif
