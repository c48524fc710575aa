/* Moments of stored elements in one pass over memory: the compiled twin of moments.py.
 *
 * Blocks of 2048 elements, which stay in the nearest cache, are gone over once: decoded to single
 * precision, compared for extremes and smallest magnitudes, and summed in powers about the mean of
 * the elements before, or about their own where that is another. Blocks merge in double precision
 * (Pebay 2008, SAND2008-6212, eqs. 2.1, 3.1), in order. Blocks whose powers single precision does
 * not hold, blocks with non-finite elements and short arrays are summed in double precision. Bytes
 * are summed as integers, exactly.
 *
 * The interpreter's lock is released while sums run. Needs GCC or Clang on 64 bits; initlint works
 * without this module.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if !defined(__GNUC__) || !defined(__SIZEOF_INT128__)
#error "needs vector extensions and 128-bit integers; initlint uses NumPy instead"
#endif
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "stored elements are little-endian; initlint uses NumPy instead"
#endif

#define LANES 16
#define BLOCK 2048      /* elements summed in single precision at once, 128 in each lane */
#define BYTES 4096      /* bytes summed in lanes of 32 bits at once */
#define EXACT (1 << 22) /* bytes whose sums of powers times their number cubed fit 128 bits */
#define SHORT 4096      /* elements below which double precision costs nothing */
#define READ (1 << 17)  /* bytes read at once: they stay in a core's cache, where they are summed */

#define INLINE static inline __attribute__((always_inline))

typedef float four_floats __attribute__((vector_size(16)));
typedef float eight_floats __attribute__((vector_size(32)));
typedef float sixteen_floats __attribute__((vector_size(64)));
typedef int32_t four_integers __attribute__((vector_size(16)));
typedef int32_t eight_integers __attribute__((vector_size(32)));
typedef int32_t sixteen_integers __attribute__((vector_size(64)));
typedef int16_t sixteen_shorts __attribute__((vector_size(32)));
typedef __int128 wide;

enum kind { FLOAT32, FLOAT64, FLOAT16, BFLOAT16, INT8, UINT8, KINDS };

/* What one pass over a block gives. */
struct pass {
    double powers[4];
    float low, high;
    int32_t nearest;
    int64_t zeros, below;
};

#define NAME(x) plain_##x
#define TARGET
#define FLOATS four_floats
#define INTEGERS four_integers
#include "_moments_kernel.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define NAME(x) avx2_##x
#define TARGET __attribute__((target("avx2,f16c")))
#define FLOATS eight_floats
#define INTEGERS eight_integers
#define AVX2
#include "_moments_kernel.h"
#undef AVX2
#define NAME(x) avx512_##x
#if defined(__clang__)
#define WHOLE
#else
#define WHOLE ",prefer-vector-width=512"
#endif
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni" WHOLE)))
#define FLOATS sixteen_floats
#define INTEGERS sixteen_integers
#define AVX512
#include "_moments_kernel.h"
#undef AVX512
#endif

typedef void pass_function(const void *, size_t, float, int16_t, struct pass *);

static struct {
    pass_function *pass[KINDS];
    void (*near_zero)(const float *, size_t, int32_t, int64_t *, int64_t *);
    void (*widen)(const uint16_t *, size_t, enum kind, float *);
    void (*integers)(const int8_t *, size_t, int64_t[4]);
    void (*extremes)(const int8_t *, size_t, int8_t, int8_t *, int8_t *, int64_t *);
} kernel;

#define CHOOSE(set)                                                                                \
    do {                                                                                           \
        kernel.pass[FLOAT32] = set##_pass_floats;                                                 \
        kernel.pass[FLOAT16] = set##_pass_float16;                                                 \
        kernel.pass[BFLOAT16] = set##_pass_bfloat16;                                               \
        kernel.near_zero = set##_near_zero;                                                        \
        kernel.widen = set##_widen;                                                                \
        kernel.integers = set##_integers;                                                          \
        kernel.extremes = set##_extremes;                                                          \
    } while (0)

/* The widest set that the processor has, up to a given one: 0 is the common one. */
static int choose(int widest)
{
    CHOOSE(plain);
#if defined(__x86_64__)
    unsigned a, b, c, d;
    __builtin_cpu_init();
    if (widest > 1 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni")) {
        CHOOSE(avx512);
        return 2;
    }
    if (widest > 0 && __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) &&
        (c & bit_F16C)) {
        CHOOSE(avx2);
        return 1;
    }
#endif
    return 0;
}

/* Sums of central powers m2, m3, m4 of n finite elements. */
struct total {
    int64_t n, zeros, subnormals, nan, inf;
    double mean, m2, m3, m4, low, high;
};

static void merge(struct total *t, int64_t n, double mean, double m2, double m3, double m4,
                  double low, double high)
{
    if (n == 0)
        return;
    if (t->n == 0) {
        t->n = n;
        t->mean = mean;
        t->m2 = m2;
        t->m3 = m3;
        t->m4 = m4;
        t->low = low;
        t->high = high;
        return;
    }
    double all = (double)(t->n + n), a = (double)t->n / all, b = (double)n / all;
    double d = mean - t->mean, weight = d * d * (double)t->n * b;
    t->m4 += m4 + weight * d * d * (a * a - a * b + b * b) +
             6 * d * d * (a * a * m2 + b * b * t->m2) + 4 * d * (a * m3 - b * t->m3);
    t->m3 += m3 + weight * d * (a - b) + 3 * d * (a * m2 - b * t->m2);
    t->m2 += m2 + weight;
    t->mean += d * b;
    t->n += n;
    t->low = low < t->low ? low : t->low;
    t->high = high > t->high ? high : t->high;
}

/* Central sums from sums of powers about a centre. */
static void merge_powers(struct total *t, int64_t n, double centre, const double s[4], double low,
                         double high)
{
    double e = s[0] / (double)n;
    double m2 = s[1] - s[0] * e, m3 = s[2] - 3 * e * s[1] + 2 * s[0] * e * e;
    double m4 = s[3] - 4 * e * s[2] + 6 * e * e * s[1] - 3 * s[0] * e * e * e;
    merge(t, n, centre + e, m2 > 0 ? m2 : 0, m3, m4 > 0 ? m4 : 0, low, high);
}

/* At most BLOCK elements in double precision; those that are not finite are counted and dropped. */
static void add_doubles(struct total *t, double *x, size_t count, double tiny)
{
    size_t n = 0;
    double low = INFINITY, high = -INFINITY, sum = 0, s[4] = {0};

    for (size_t i = 0; i < count; i++) {
        double v = x[i];
        if (!isfinite(v)) {
            t->nan += isnan(v) != 0;
            t->inf += isinf(v) != 0;
            continue;
        }
        t->zeros += v == 0;
        t->subnormals += v != 0 && fabs(v) < tiny;
        low = v < low ? v : low;
        high = v > high ? v : high;
        sum += v;
        x[n++] = v;
    }
    if (n == 0)
        return;
    if (low == high) {
        merge(t, (int64_t)n, low, 0, 0, 0, low, high);
        return;
    }
    double centre = sum / (double)n;
    for (size_t i = 0; i < n; i++) {
        double d = x[i] - centre, square = d * d;
        s[0] += d;
        s[1] += square;
        s[2] += square * d;
        s[3] += square * square;
    }
    merge_powers(t, (int64_t)n, centre, s, low, high);
}

#define TINY_HALF 0x1p-14 /* the smallest normal number of half precision, of bits 0x0400 */
#define TINY_SINGLE 0x1p-126 /* of single precision, and of bfloat16, whose bits are 0x0080 */
#define OFF_CENTRE 16 /* variances that the square of what is left of the mean must fit into */

/* One pass about a centre near the mean: that of the elements before, or else the block's own, which
 * the pass about another centre tells. What is left of the mean is below a quarter of the standard
 * deviation, so that no more than a bit of the fourth power is cancelled away. Fails where single
 * precision is not enough: magnitudes below 1e8 and a spread above 1e-8 keep the fourth powers of
 * the elements within a factor 30 of the farthest one inside it. */
static int sum_block(struct total *t, const void *x, size_t n, enum kind kind, double tiny)
{
    int half = kind == FLOAT16;
    int counted = kind != FLOAT32 && tiny == (half ? TINY_HALF : TINY_SINGLE);
    float centre = t->n ? (float)t->mean : 0.0f;
    struct pass seen;

    if (kind != FLOAT32 && !counted)
        return 0;
    for (int attempt = 0;; attempt++) {
        kernel.pass[kind](x, n, centre, half ? 0x0400 : 0x0080, &seen);
        const double *s = seen.powers;
        double left = s[0] / (double)n;
        if (!(isfinite(s[0]) && seen.low > -1e8f && seen.high < 1e8f &&
              seen.high - seen.low > 1e-8f))
            return 0;
        if (left * left * OFF_CENTRE <= s[1] / (double)n - left * left)
            break;
        if (attempt == 2)
            return 0;
        centre += (float)left;
    }
    if (!counted) {
        float limit = (float)tiny;
        int32_t bits;
        memcpy(&bits, &limit, sizeof bits);
        if (seen.nearest == 0 || seen.nearest < bits)
            kernel.near_zero(x, n, bits, &seen.zeros, &seen.below);
    }
    t->zeros += seen.zeros;
    t->subnormals += seen.below > seen.zeros ? seen.below - seen.zeros : 0;
    merge_powers(t, (int64_t)n, centre, seen.powers, seen.low, seen.high);
    return 1;
}

/* At most BLOCK elements of single precision or less. */
static void add_block(struct total *t, const void *x, size_t count, enum kind kind, double tiny,
                      int precise)
{
    size_t n = precise ? 0 : count - count % LANES;
    float values[BLOCK];
    double wide_x[BLOCK];

    if (n && !sum_block(t, x, n, kind, tiny))
        n = 0;
    if (n == count)
        return;
    if (kind == FLOAT32)
        memcpy(values, (const float *)x + n, (count - n) * sizeof *values);
    else
        kernel.widen((const uint16_t *)x + n, count - n, kind, values);
    for (size_t i = 0; i < count - n; i++)
        wide_x[i] = values[i];
    add_doubles(t, wide_x, count - n, tiny);
}

/* At most EXACT bytes; every number below is an integer until the divisions. */
static void add_bytes(struct total *t, const uint8_t *x, size_t count, int is_signed)
{
    int8_t block[BYTES], low = 127, high = -128;
    int64_t s[4] = {0};
    double offset = is_signed ? 0 : 128;

    for (size_t start = 0; start < count; start += BYTES) {
        size_t n = count - start < BYTES ? count - start : BYTES;
        const int8_t *values = (const int8_t *)x + start;
        if (!is_signed) {
            for (size_t i = 0; i < n; i++)
                block[i] = (int8_t)(x[start + i] ^ 0x80);
            values = block;
        }
        kernel.integers(values, n, s);
        kernel.extremes(values, n, is_signed ? 0 : -128, &low, &high, &t->zeros);
    }
    wide n = (wide)count, a = s[0], b = s[1], c = s[2], d = s[3];
    double size = (double)count;
    double m2 = (double)(n * b - a * a) / size;
    double m3 = (double)(n * n * c - 3 * n * a * b + 2 * a * a * a) / size / size;
    double m4 = (double)(n * n * n * d - 4 * n * n * a * c + 6 * n * a * a * b - 3 * a * a * a * a);
    merge(t, (int64_t)count, offset + (double)s[0] / size, m2, m3, m4 / size / size / size,
          offset + low, offset + high);
}

static const struct {
    const char *name;
    size_t bytes, block;
} kinds[KINDS] = {
    {"float32", 4, BLOCK},  {"float64", 8, BLOCK}, {"float16", 2, BLOCK},
    {"bfloat16", 2, BLOCK}, {"int8", 1, EXACT},    {"uint8", 1, EXACT},
};

/* Whole blocks of an array of elements, and its last one. */
static void add(struct total *t, const uint8_t *data, size_t count, enum kind kind, double tiny,
                int precise)
{
    for (size_t start = 0; start < count; start += kinds[kind].block) {
        size_t n = count - start < kinds[kind].block ? count - start : kinds[kind].block;
        const uint8_t *x = data + start * kinds[kind].bytes;
        if (kind == FLOAT64) {
            double copy[BLOCK];
            memcpy(copy, x, n * sizeof *copy);
            add_doubles(t, copy, n, tiny);
        } else if (kind < INT8) {
            add_block(t, x, n, kind, tiny, precise);
        } else {
            add_bytes(t, x, n, kind == INT8);
        }
    }
}

static int kind_of(const char *name)
{
    int kind = 0;
    while (kind < KINDS && strcmp(kinds[kind].name, name) != 0)
        kind++;
    return kind;
}

/* Reads length bytes: 0, the number of the system's error, or -1 where the file ends before. */
static int read_whole(int descriptor, uint8_t *buffer, size_t length, off_t offset)
{
    while (length) {
        ssize_t got = pread(descriptor, buffer, length, offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? errno : -1;
        buffer += got;
        length -= (size_t)got;
        offset += got;
    }
    return 0;
}

/* As add, of elements in a file; returns as read_whole. */
static int add_file(struct total *t, int descriptor, off_t offset, size_t count, enum kind kind,
                    double tiny)
{
    size_t width = kinds[kind].bytes, block = kinds[kind].block;
    size_t most = block * width > READ ? block : READ / width;
    int precise = count < SHORT, failed = 0;
    uint8_t *buffer = malloc((count < most ? count : most) * width + 1);

    if (!buffer)
        return ENOMEM;
    for (size_t start = 0; start < count && !failed; start += most) {
        size_t n = count - start < most ? count - start : most;
        failed = read_whole(descriptor, buffer, n * width, offset + (off_t)(start * width));
        if (!failed)
            add(t, buffer, n, kind, tiny, precise);
    }
    free(buffer);
    return failed;
}

static PyObject *told(const struct total *t)
{
    return Py_BuildValue("LddddddLLLL", (long long)t->n, t->mean, t->m2, t->m3, t->m4, t->low,
                         t->high, (long long)t->zeros, (long long)t->subnormals,
                         (long long)t->nan, (long long)t->inf);
}

static PyObject *sums(PyObject *module, PyObject *args)
{
    Py_buffer view;
    const char *name;
    double tiny;
    struct total t = {.mean = NAN, .low = NAN, .high = NAN};

    (void)module;
    if (!PyArg_ParseTuple(args, "y*sd:sums", &view, &name, &tiny))
        return NULL;
    int kind = kind_of(name);
    if (kind == KINDS || (size_t)view.len % kinds[kind].bytes ||
        (uintptr_t)view.buf % kinds[kind].bytes) {
        PyErr_Format(PyExc_ValueError, "no aligned whole elements of %s", name);
        PyBuffer_Release(&view);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    size_t count = (size_t)view.len / kinds[kind].bytes;
    add(&t, view.buf, count, (enum kind)kind, tiny, count < SHORT);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
    return told(&t);
}

static PyObject *sums_of_file(PyObject *module, PyObject *args)
{
    int descriptor, failed;
    long long offset, count;
    const char *name;
    double tiny;
    struct total t = {.mean = NAN, .low = NAN, .high = NAN};

    (void)module;
    if (!PyArg_ParseTuple(args, "iLLsd:sums_of_file", &descriptor, &offset, &count, &name, &tiny))
        return NULL;
    int kind = kind_of(name);
    if (kind == KINDS || offset < 0 || count < 0 || count > INT64_MAX / 8) {
        PyErr_Format(PyExc_ValueError, "no elements of %s", name);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    failed = add_file(&t, descriptor, (off_t)offset, (size_t)count, (enum kind)kind, tiny);
    Py_END_ALLOW_THREADS
    if (failed < 0) {
        PyErr_SetString(PyExc_EOFError, "the file ends before the elements do");
        return NULL;
    }
    if (failed) {
        errno = failed;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return told(&t);
}

static PyObject *use_vectors(PyObject *module, PyObject *widest)
{
    (void)module;
    long set = PyLong_AsLong(widest);
    return set == -1 && PyErr_Occurred() ? NULL : PyLong_FromLong(choose(set > 2 ? 2 : (int)set));
}

static PyMethodDef methods[] = {
    {"sums", sums, METH_VARARGS,
     "sums(data, dtype, tiny): n, mean, m2, m3, m4, min, max, zeros, subnormals, nan, inf."},
    {"sums_of_file", sums_of_file, METH_VARARGS,
     "sums_of_file(descriptor, offset, count, dtype, tiny): as sums, of elements in a file."},
    {"use_vectors", use_vectors, METH_O,
     "use_vectors(widest): 0 common vectors, 1 AVX2, 2 AVX-512 at most; returns what it took."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_moments", "Moments of stored elements.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__moments(void)
{
    choose(2);
    return PyModule_Create(&definition);
}
