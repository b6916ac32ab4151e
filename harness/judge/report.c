#include "harness/judge/report.h"

const char *verdict_name(enum verdict verdict)
{
    static const char *const names[] = {"PASS", "WARN", "FAIL", "NOT_RUN", "ERROR"};
    return names[verdict];
}
