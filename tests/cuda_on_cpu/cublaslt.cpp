// A stand-in for cuBLASLt that computes on the CPU: as much of its interface as tinygpt_accel/cuda_backend/cublaslt.py
// calls, written from NVIDIA's documentation. Matrices count down columns. What the library would refuse is refused.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

enum { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_64F = 1, R_16F = 2, R_16BF = 14 };

struct Descriptor { int compute, scale; int transa = 0, transb = 0; unsigned epilogue = 1; void* bias = nullptr; void* aux = nullptr; int64_t aux_ld = 0; };
struct Layout { int type; uint64_t rows, columns; int64_t leading; int count = 1; int64_t distance = 0; };
struct Preference { uint64_t workspace = 0; unsigned alignment[4] = {256, 256, 256, 256}; };
struct Result { uint64_t algo[8]; size_t workspace; int state; float waves; int reserved[4]; };

static unsigned refused = 0;  // an epilogue for which there is said to be no algorithm
extern "C" void stand_in_refuse(unsigned epilogue) { refused = epilogue; }

static size_t size_of(int type) { return type == R_64F ? 8 : type == R_32F ? 4 : 2; }
static double load(const void* p, int type, int64_t i) {
    if (type == R_64F) return ((const double*)p)[i];
    if (type == R_32F) return ((const float*)p)[i];
    if (type == R_16F) { _Float16 v; std::memcpy(&v, (const char*)p + 2 * i, 2); return (double)v; }
    uint32_t bits = (uint32_t)((const uint16_t*)p)[i] << 16; float v; std::memcpy(&v, &bits, 4); return v;
}
static void store(void* p, int type, int64_t i, double value) {
    if (type == R_64F) { ((double*)p)[i] = value; return; }
    float v = (float)value;
    if (type == R_32F) { ((float*)p)[i] = v; return; }
    if (type == R_16F) { _Float16 h = (_Float16)v; std::memcpy((char*)p + 2 * i, &h, 2); return; }
    uint32_t bits; std::memcpy(&bits, &v, 4);
    ((uint16_t*)p)[i] = v != v ? 0x7fc0 : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#define API extern "C" int
API cublasLtCreate(void** made) { *made = std::malloc(1); return SUCCESS; }
API cublasLtMatmulDescCreate(void** made, int compute, int scale) { Descriptor* d = new Descriptor; d->compute = compute, d->scale = scale; *made = d; return SUCCESS; }
API cublasLtMatrixLayoutCreate(void** made, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    Layout* l = new Layout; l->type = type, l->rows = rows, l->columns = columns, l->leading = leading; *made = l; return SUCCESS;
}
API cublasLtMatmulPreferenceCreate(void** made) { *made = new Preference; return SUCCESS; }
API cublasLtMatmulPreferenceDestroy(void* p) { delete (Preference*)p; return SUCCESS; }

static int set(void* place, const void* value, size_t given, size_t wanted) {
    if (given != wanted) return INVALID_VALUE;
    std::memcpy(place, value, wanted);
    return SUCCESS;
}
API cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value, size_t size) {
    Descriptor* d = (Descriptor*)desc;
    switch (attribute) {
        case 3: return set(&d->transa, value, size, 4);
        case 4: return set(&d->transb, value, size, 4);
        case 7: return set(&d->epilogue, value, size, 4);
        case 8: return set(&d->bias, value, size, 8);
        case 11: return set(&d->aux, value, size, 8);
        case 12: return set(&d->aux_ld, value, size, 8);
    }
    return INVALID_VALUE;
}
API cublasLtMatrixLayoutSetAttribute(void* layout, int attribute, const void* value, size_t size) {
    Layout* l = (Layout*)layout;
    if (attribute == 5) return set(&l->count, value, size, 4);
    if (attribute == 6) return set(&l->distance, value, size, 8);
    return INVALID_VALUE;
}
API cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, size_t size) {
    Preference* p = (Preference*)preference;
    if (attribute == 1) return set(&p->workspace, value, size, 8);
    if (attribute >= 5 && attribute <= 8) return set(&p->alignment[attribute - 5], value, size, 4);
    return INVALID_VALUE;
}

static bool fits(const Descriptor* d, const Layout* a, const Layout* b, const Layout* c, const Layout* out) {
    uint64_t m = d->transa ? a->columns : a->rows, k = d->transa ? a->rows : a->columns;
    uint64_t k2 = d->transb ? b->columns : b->rows, n = d->transb ? b->rows : b->columns;
    for (const Layout* l : {a, b, c, out}) if (l->leading < (int64_t)l->rows || l->count != out->count) return false;
    return k == k2 && out->rows == m && out->columns == n && c->rows == m && c->columns == n;
}

API cublasLtMatmulAlgoGetHeuristic(void* handle, void* desc, void* a, void* b, void* c, void* out, void* preference, int wanted,
                                   Result* results, int* found) {
    Descriptor* d = (Descriptor*)desc;
    Preference* p = (Preference*)preference;
    *found = 0;
    if (!handle || wanted != 1 || !fits(d, (Layout*)a, (Layout*)b, (Layout*)c, (Layout*)out)) return INVALID_VALUE;
    if (d->epilogue == refused || ((Layout*)a)->type != ((Layout*)b)->type) return NOT_SUPPORTED;
    if (d->compute != (((Layout*)a)->type == R_64F ? 70 : 68) && !(d->compute == 77 && ((Layout*)a)->type == R_32F)) return NOT_SUPPORTED;
    if (d->epilogue != 1 && ((Layout*)out)->count > 1) return NOT_SUPPORTED;
    if ((d->epilogue & 128) && (!d->aux || d->aux_ld % 8 || d->aux_ld < (int64_t)((Layout*)out)->rows)) return NOT_SUPPORTED;
    for (unsigned alignment : p->alignment) if (!alignment || alignment & (alignment - 1)) return INVALID_VALUE;
    std::memset(results, 0, sizeof *results);
    for (int i = 0; i < 4; i++) results->algo[i] = p->alignment[i];  // which `cublasLtMatmul` then relies on
    results->algo[4] = p->workspace, results->algo[5] = ((uint64_t)d->bias | (uint64_t)d->aux) % 16 ? 1 : 16, results->algo[7] = 0x7174;
    *found = 1;
    return SUCCESS;
}

static double share_of(double x) { return 1 / (1 + std::exp(-2 * 0.79788456080286535588 * (x + 0.044715 * x * x * x))); }

API cublasLtMatmul(void* handle, void* desc, const void* alpha, const void* a, void* adesc, const void* b, void* bdesc, const void* beta,
                   const void* c, void* cdesc, void* out, void* ddesc, const uint64_t* algo, void* workspace, size_t workspace_size,
                   void* stream) {
    Descriptor* d = (Descriptor*)desc;
    Layout *A = (Layout*)adesc, *B = (Layout*)bdesc, *D = (Layout*)ddesc;
    const void* pointers[4] = {a, b, c, out};
    if (!handle || !algo || algo[7] != 0x7174 || !fits(d, A, B, (Layout*)cdesc, D)) return INVALID_VALUE;
    if (!workspace || workspace_size < algo[4] || stream != (void*)0x5eed) return INVALID_VALUE;
    for (int i = 0; i < 4; i++) if ((uint64_t)pointers[i] % algo[i]) return INVALID_VALUE;
    if (((uint64_t)d->bias | (uint64_t)d->aux) % algo[5]) return INVALID_VALUE;
    const Layout* layouts[4] = {A, B, (Layout*)cdesc, D};
    for (int i = 0; i < 4; i++) if (layouts[i]->count > 1 && layouts[i]->distance * size_of(layouts[i]->type) % algo[i]) return INVALID_VALUE;
    ((unsigned char*)workspace)[workspace_size - 1] = 255;  // scratch may lie anywhere in it
    double scale = d->scale == R_64F ? *(const double*)alpha : *(const float*)alpha;
    const double kept = d->scale == R_64F ? *(const double*)beta : *(const float*)beta;
    if (kept != 0 && (kept != 1 || c != out || d->epilogue != 1)) return INVALID_VALUE;
    int64_t m = D->rows, n = D->columns, k = d->transa ? A->rows : A->columns;
    const unsigned e = d->epilogue;
    for (int z = 0; z < D->count; z++) {
        const char *pa = (const char*)a + z * A->distance * size_of(A->type), *pb = (const char*)b + z * B->distance * size_of(B->type);
        char* po = (char*)out + z * D->distance * size_of(D->type);
        std::vector<double> sums(m, 0.0);
        for (int64_t i = 0; i < m; i++) {
            for (int64_t j = 0; j < n; j++) {
                double sum = 0;
                for (int64_t l = 0; l < k; l++) {
                    double left = load(pa, A->type, d->transa ? l + i * A->leading : i + l * A->leading);
                    sum += left * load(pb, B->type, d->transb ? j + l * B->leading : l + j * B->leading);
                    if (j == 0) sums[i] += left;
                }
                sum *= scale;
                if (kept) sum += load(po, D->type, i + j * D->leading);
                if (e & 4) sum += load(d->bias, D->type, i);
                if (e == 160 || e == 164) {
                    store(d->aux, D->type, i + j * d->aux_ld, sum);
                    sum *= share_of(sum);
                } else if (e == 192) {
                    double x = load(d->aux, D->type, i + j * d->aux_ld), s = share_of(x);
                    sum *= s + 2 * x * s * (1 - s) * 0.79788456080286535588 * (1 + 3 * 0.044715 * x * x);
                }
                store(po, D->type, i + j * D->leading, sum);
            }
            if (e == 256) store(d->bias, D->type, i, sums[i]);
        }
    }
    return SUCCESS;
}

extern "C" const char* cublasLtGetStatusString(int status) { return status == NOT_SUPPORTED ? "not supported" : status == INVALID_VALUE ? "an unsupported value or parameter was passed" : "success"; }
extern "C" size_t cublasLtGetVersion() { return 120805; }
