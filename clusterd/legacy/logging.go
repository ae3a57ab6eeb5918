package legacy

import (
	"io"
	"net/http"
	"strconv"

	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/operator"
	"github.com/mesolith/mesolith/internal/acl"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// Toggle answers /logging/toggle of the node itself: with level and duration it logs more
// for that long, as operators may; without, it says how much it logs.
func Toggle(logging *operator.Logging) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		level, duration := r.FormValue("level"), r.FormValue("duration")
		if level == "" && duration == "" {
			httpio.Send(w, r, "text/plain; charset=utf-8", func(out io.Writer) error {
				_, err := out.Write([]byte(strconv.FormatUint(uint64(logging.Level()), 10) + "\n"))
				return err
			})
			return
		}
		from := auth.PrincipalOf(r.Context())
		if !from.May(nodedoc.RoleOperator) {
			why := r.URL.Path + " with a level needs the role 'operator', and " + from.String() + " does not have it"
			auth.Refused(r.Context(), callOf(r), level+" "+duration, why)
			httpio.Error(w, http.StatusForbidden, why)
			return
		}
		if why := auth.Forbidden(r.Context(), acl.SetLogLevel, ""); why != "" {
			auth.Refused(r.Context(), callOf(r), level+" "+duration, why)
			httpio.Error(w, http.StatusForbidden, why)
			return
		}
		n, err := strconv.ParseUint(level, 10, 32)
		if err != nil {
			httpio.Error(w, http.StatusBadRequest, "Expecting 'level=value' in query, a number that is not negative: "+strconv.Quote(level))
			return
		}
		d, err := mesosjson.ParseDuration(duration)
		if err != nil {
			httpio.Error(w, http.StatusBadRequest, "Expecting 'duration=value' in query, like 10mins: "+err.Error())
			return
		}
		if why := operator.CheckLogging(uint32(n), d); why != "" {
			httpio.Error(w, http.StatusBadRequest, why)
			return
		}
		logging.Set(uint32(n), d)
		auth.Changed(r.Context(), callOf(r), level+" "+duration, "done")
		httpio.Empty(w, http.StatusOK)
	})
}
