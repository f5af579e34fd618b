/* scan.c - wire bytes in, the same message in a bounded canonical form out.
 *
 * Two walks over the bytes with one explicit stack: the first checks everything and adds up the sizes, the second writes.
 * The schema is protobuf-c's own descriptor, so it cannot differ from what the parser will do. A message's length is written
 * as five bytes, whatever its value, so that it can be filled in when the message ends. */
#include "frontend/scan.h"
#include "onnx.pb-c.h"
#include <inttypes.h>

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5, LENGTH_BYTES = 5 };
enum { FIELD_COST = 96, ROUND = 64 }; /* the parser's note about a field; what the arena rounds an allocation up by */
enum { MAX_STRING = 1 << 16 };        /* names longer than this are no names */
enum { RAW_DATA_FIELD = 9, RAW_AT_FIELD = 2000, RAW_SIZE_FIELD = 2001 };

typedef struct Frame {
    const ProtobufCMessageDescriptor *type;
    const uint8_t *end;
    size_t length_at; /* where its length is to be written */
    uint64_t seen;    /* singular messages met, by field number in the descriptor */
} Frame;

typedef struct Scanner {
    Diag *diag;
    const uint8_t *start, *p;
    uint8_t *out; /* NULL in the first walk */
    size_t n;
    uint64_t memory, budget;
    int depth;
    Frame frame[SCAN_DEPTH];
} Scanner;

typedef struct Field {
    const ProtobufCFieldDescriptor *desc; /* NULL: unknown, skipped */
    uint32_t number;
    int wire;
    const uint8_t *payload, *payload_end; /* of WIRE_BYTES: behind the length */
} Field;

static Frame *top(Scanner *s) { return &s->frame[s->depth - 1]; }

static bool fail(Scanner *s, const char *what)
{
    return diag_error(s->diag, NULL, "not a valid ONNX file: %s at byte %zu (in %s)", what, (size_t)(s->p - s->start),
                      top(s)->type->short_name);
}

static bool read_varint(Scanner *s, int limit, uint64_t *value)
{
    uint64_t v = 0;
    const uint8_t *p = s->p;
    for (int i = 0; i < limit && p < top(s)->end; i++) {
        uint8_t b = *p++;
        v |= (uint64_t)(b & 0x7f) << (7 * i);
        if (b & 0x80) continue;
        s->p = p, *value = v;
        return true;
    }
    return fail(s, p < top(s)->end ? "overlong number" : "truncated number");
}

/* ---- writing ---- */

static void put_bytes(Scanner *s, const uint8_t *p, size_t n)
{
    if (s->out && n) memcpy(s->out + s->n, p, n);
    s->n += n;
}

static void put_varint(Scanner *s, uint64_t v)
{
    uint8_t b[10];
    size_t n = 0;
    for (; v >= 0x80; v >>= 7) b[n++] = (uint8_t)(v | 0x80);
    b[n++] = (uint8_t)v;
    put_bytes(s, b, n);
}

static void put_tag(Scanner *s, uint32_t field, int wire) { put_varint(s, (uint64_t)field << 3 | (unsigned)wire); }

static void patch_length(Scanner *s, size_t at)
{
    if (!s->out) return;
    size_t n = s->n - at - LENGTH_BYTES;
    for (int i = 0; i < LENGTH_BYTES; i++)
        s->out[at + (size_t)i] = (uint8_t)((n >> (7 * i) & 0x7f) | (i < LENGTH_BYTES - 1 ? 0x80 : 0));
}

/* ---- checking ---- */

static bool charge(Scanner *s, uint64_t bytes)
{
    s->memory += bytes;
    if (s->memory <= s->budget) return true;
    return diag_error(s->diag, NULL,
                      "the file describes more than the allowed %" PRIu64 " bytes of memory (--max-memory)", s->budget);
}

static int wire_of(ProtobufCType t)
{
    switch (t) {
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT: return WIRE_32;
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE: return WIRE_64;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE: return WIRE_BYTES;
    default: return WIRE_VARINT;
    }
}

/* Valid UTF-8 without NUL: two names that differ for a checker must differ for every reader. */
static bool utf8_valid(const uint8_t *p, const uint8_t *end)
{
    while (p < end) {
        uint8_t c = *p++;
        if (c && c < 0x80) continue;
        int more = c >= 0xf0 && c <= 0xf4 ? 3 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xc2 && c < 0xe0 ? 1 : 0;
        if (!more || end - p < more) return false;
        uint8_t lo = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80, hi = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
        if (*p < lo || *p > hi) return false;
        for (int i = 1; i < more; i++)
            if ((p[i] & 0xc0) != 0x80) return false;
        p += more;
    }
    return true;
}

static bool check_packed(Scanner *s, const Field *f, int wire)
{
    size_t n = (size_t)(f->payload_end - f->payload), count = 0;
    if (wire == WIRE_BYTES) return fail(s, "wrong encoding of a field");
    if (wire != WIRE_VARINT) {
        size_t size = wire == WIRE_32 ? 4 : 8;
        return n % size ? fail(s, "packed numbers of uneven length") : charge(s, n + ROUND);
    }
    int run = 0;
    for (const uint8_t *p = f->payload; p < f->payload_end; p++) {
        if (++run > 10) return fail(s, "overlong number");
        if (!(*p & 0x80)) run = 0, count++;
    }
    return run ? fail(s, "truncated number") : charge(s, count * 8 + ROUND);
}

static bool read_field(Scanner *s, Field *f)
{
    uint64_t tag = 0, n = 0;
    if (!read_varint(s, 5, &tag)) return false;
    f->number = (uint32_t)(tag >> 3), f->wire = (int)(tag & 7);
    if (tag > UINT32_MAX || !f->number) return fail(s, "bad field number");
    f->payload = s->p;
    const uint8_t *end = top(s)->end;
    if (f->wire == WIRE_VARINT) {
        if (!read_varint(s, 10, &n)) return false;
    } else if (f->wire == WIRE_BYTES) {
        if (!read_varint(s, 5, &n)) return false;
        f->payload = s->p;
        if (n > (size_t)(end - s->p)) return fail(s, "truncated field");
        s->p += n;
    } else if (f->wire == WIRE_32 || f->wire == WIRE_64) {
        n = f->wire == WIRE_32 ? 4 : 8;
        if (n > (size_t)(end - s->p)) return fail(s, "truncated field");
        s->p += n;
    } else {
        return fail(s, "unknown wire type");
    }
    f->payload_end = s->p;
    f->desc = f->number < RAW_AT_FIELD ? protobuf_c_message_descriptor_get_field(top(s)->type, f->number) : NULL;
    return true;
}

static bool enter_message(Scanner *s, const Field *f)
{
    uint64_t bit = (uint64_t)1 << (f->desc - top(s)->type->fields);
    if (f->desc->label != PROTOBUF_C_LABEL_REPEATED) {
        if (top(s)->seen & bit) return fail(s, "a message that may appear once appears twice");
        top(s)->seen |= bit;
    }
    if (s->depth == SCAN_DEPTH) return fail(s, "messages nested too deeply");
    const ProtobufCMessageDescriptor *type = f->desc->descriptor;
    if (!charge(s, type->sizeof_message + 2 * sizeof(void *) + 2 * ROUND)) return false;
    put_tag(s, f->number, WIRE_BYTES);
    s->frame[s->depth++] = (Frame){type, f->payload_end, s->n, 0};
    s->n += LENGTH_BYTES;
    s->p = f->payload;
    return true;
}

static bool is_raw_data(const Scanner *s, const Field *f)
{
    return s->frame[s->depth - 1].type == &onnx__tensor_proto__descriptor && f->number == RAW_DATA_FIELD;
}

static bool copy_bytes(Scanner *s, const Field *f)
{
    size_t n = (size_t)(f->payload_end - f->payload);
    if (is_raw_data(s, f) && n >= SCAN_BORROW) {
        put_tag(s, RAW_AT_FIELD, WIRE_VARINT), put_varint(s, (uint64_t)(f->payload - s->start));
        put_tag(s, RAW_SIZE_FIELD, WIRE_VARINT), put_varint(s, n);
        return charge(s, 2 * FIELD_COST);
    }
    if (f->desc->type == PROTOBUF_C_TYPE_STRING) {
        if (n > MAX_STRING) return fail(s, "a name of more than 64 KiB");
        if (!utf8_valid(f->payload, f->payload_end)) return fail(s, "a name that is not UTF-8 text");
    }
    put_tag(s, f->number, WIRE_BYTES), put_varint(s, n), put_bytes(s, f->payload, n);
    return charge(s, n + 2 * sizeof(void *) + ROUND);
}

static bool take_field(Scanner *s, const Field *f)
{
    if (!f->desc) return true;
    int wire = wire_of(f->desc->type);
    if (!charge(s, FIELD_COST)) return false;
    if (f->wire == WIRE_BYTES && f->desc->type == PROTOBUF_C_TYPE_MESSAGE) return enter_message(s, f);
    if (f->wire == WIRE_BYTES && wire == WIRE_BYTES) return copy_bytes(s, f);
    if (f->wire == WIRE_BYTES && f->desc->label == PROTOBUF_C_LABEL_REPEATED) {
        size_t n = (size_t)(f->payload_end - f->payload);
        put_tag(s, f->number, WIRE_BYTES), put_varint(s, n), put_bytes(s, f->payload, n);
        return check_packed(s, f, wire);
    }
    if (f->wire != wire) return fail(s, "wrong encoding of a field");
    put_tag(s, f->number, wire), put_bytes(s, f->payload, (size_t)(f->payload_end - f->payload));
    return true;
}

static bool walk(Scanner *s, const ProtobufCMessageDescriptor *type, size_t n)
{
    s->p = s->start, s->n = 0, s->memory = 0, s->depth = 1;
    s->frame[0] = (Frame){type, s->start + n, 0, 0};
    for (;;) {
        while (s->p == top(s)->end) {
            if (s->depth == 1) return true;
            patch_length(s, top(s)->length_at);
            s->depth--;
        }
        Field f = {0};
        if (!read_field(s, &f) || !take_field(s, &f)) return false;
    }
}

bool scan_message(Arena *mem, Diag *d, const ProtobufCMessageDescriptor *type, const uint8_t *p, size_t n,
                  uint64_t budget, Scan *out)
{
    if (!n) return diag_error(d, NULL, "the file is empty");
    if (n > INT32_MAX)
        return diag_error(d, NULL, "the file has %zu bytes; protobuf ends at 2 GiB: keep weights as external data", n);
    Scanner s = {.diag = d, .start = p, .budget = budget};
    if (!walk(&s, type, n)) return false;
    if (s.n > INT32_MAX) return fail(&s, "too many messages");
    s.out = arena_alloc(mem, s.n);
    bool again = walk(&s, type, n);
    *out = (Scan){s.out, s.n, s.memory};
    return again;
}
