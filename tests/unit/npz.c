/* NumPy files: what is written is read back; what is damaged is refused. */
#include "frontend/npz.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static Arena mem;
static Diag diag;

static const char *temporary(const void *p, size_t n)
{
    char *path = arena_text(&mem, "/tmp/octet-npz-XXXXXX", 21);
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, p, n), (ssize_t)n);
    close(fd);
    return path;
}

static const Tensor *read_npy(const char *header, const void *data, size_t n)
{
    uint8_t file[512] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};
    size_t size = strlen(header);
    file[8] = (uint8_t)size;
    memcpy(file + 10, header, size), memcpy(file + 10 + size, data, n);
    diag = (Diag){.mem = &mem, .subject = ""};
    const char *path = temporary(file, 10 + size + n);
    const Tensor *t = npy_read(&mem, &diag, path);
    unlink(path);
    return t;
}

Test(npz, round_trip_of_every_type)
{
    NamedTensors in = {0}, out = {0};
    const DType types[] = {DT_f32, DT_f16, DT_f64, DT_i8,  DT_i16,  DT_i32, DT_i64,
                           DT_u8,  DT_u16, DT_u32, DT_u64, DT_bool, DT_bf16};
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        Tensor *t = tensor_new(&mem, types[i], 2, (int64_t[]){2, 3});
        for (int k = 0; k < 6; k++) dtype_store(types[i], (void *)t->data, k, types[i] == DT_bool ? k & 1 : k);
        vec_push(&mem, &in, (NamedTensor){dtypes[types[i]].name, t});
    }
    vec_push(&mem, &in, (NamedTensor){"scalar", tensor_scalar(&mem, DT_f32, 1.5)});
    vec_push(&mem, &in, (NamedTensor){"empty", tensor_new(&mem, DT_f32, 2, (int64_t[]){0, 3})});
    diag = (Diag){.mem = &mem, .subject = ""};
    const char *path = temporary("", 0);
    cr_assert(npz_write(&diag, path, &in));
    cr_assert(npz_read(&mem, &diag, path, &out), "%s", diag.line.n ? diag.line.at[0] : "");
    unlink(path);
    cr_assert_eq(out.n, in.n);
    for (uint32_t i = 0; i < in.n; i++) {
        const NamedTensor *t = npz_find(&out, in.at[i].name);
        cr_assert_not_null(t);
        cr_assert(tensor_equal(t->tensor, in.at[i].tensor), "%s differs", in.at[i].name);
    }
}

Test(npz, fortran_order_and_big_endian)
{
    const uint8_t data[] = {0, 1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6};
    const Tensor *t = read_npy("{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }\n", data, sizeof data);
    cr_assert_not_null(t);
    for (int i = 0; i < 6; i++) cr_assert_eq(((const int16_t *)t->data)[i], i + 1);
}

Test(npz, damaged_headers_are_refused)
{
    const char *const headers[] = {
        "",
        "{",
        "{'descr': '<f4'}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2), }",
        "{'descr': 'O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }"};
    for (size_t i = 0; i < COUNT_OF(headers); i++) {
        cr_assert_null(read_npy(headers[i], "1234", 4), "accepted: %s", headers[i]);
        cr_assert_eq(diag.errors, 1);
    }
}

Test(npz, other_files_are_refused)
{
    NamedTensors out = {0};
    diag = (Diag){.mem = &mem, .subject = ""};
    const char *path = temporary("PK\3\4 but no zip at all", 20);
    cr_assert_not(npz_read(&mem, &diag, path, &out));
    cr_assert_null(npy_read(&mem, &diag, path));
    unlink(path);
}
