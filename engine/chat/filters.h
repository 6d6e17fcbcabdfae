// The filters of sequences and dicts, for the table in filters.cc.
#pragma once

#include "engine/chat/builtins.h"

namespace plimsoll::jinja::filters {

Value batch(Meter&, const Value&, const Arguments&);
Value dictsort(Meter&, const Value&, const Arguments&);
Value first(Meter&, const Value&, const Arguments&);
Value groupby(Meter&, const Value&, const Arguments&);
Value items(Meter&, const Value&, const Arguments&);
Value join(Meter&, const Value&, const Arguments&);
Value last(Meter&, const Value&, const Arguments&);
Value length(Meter&, const Value&, const Arguments&);
Value list(Meter&, const Value&, const Arguments&);
Value map(Meter&, const Value&, const Arguments&);
Value max(Meter&, const Value&, const Arguments&);
Value min(Meter&, const Value&, const Arguments&);
Value reject(Meter&, const Value&, const Arguments&);
Value rejectattr(Meter&, const Value&, const Arguments&);
Value reverse(Meter&, const Value&, const Arguments&);
Value select(Meter&, const Value&, const Arguments&);
Value selectattr(Meter&, const Value&, const Arguments&);
Value slice(Meter&, const Value&, const Arguments&);
Value sort(Meter&, const Value&, const Arguments&);
Value sum(Meter&, const Value&, const Arguments&);
Value unique(Meter&, const Value&, const Arguments&);

}  // namespace plimsoll::jinja::filters
