// Group normalisation of channels-last bfloat16 maps, with scale and shift for each image and SiLU, forward and
// backward in two passes over an image that stays in the cache; statistics and sums in float32. See fast.py.
#include <torch/extension.h>
#include <vector>
#include <cmath>
#include <cstring>
using torch::Tensor;
typedef uint16_t u16;
static inline float b2f(u16 v){ uint32_t u=(uint32_t)v<<16; float f; std::memcpy(&f,&u,4); return f; }
static inline u16 f2b(float f){ uint32_t u; std::memcpy(&u,&f,4); u += 0x7fff + ((u>>16)&1); return (u16)(u>>16); }
static inline float sig(float z){ return 1.f/(1.f+expf(-z)); }
// per channel loops; act: 1 silu, 0 none
static void affine_coeffs(int C,int G,const float*mean,const float*rstd,const float*ga,const float*be,const float*sc,const float*sh,float*A,float*B){
  int cg=C/G;
  for(int c=0;c<C;c++){ int g=c/cg; float r=rstd[g]; float a=r*ga[c], b=be[c]-mean[g]*a; if(sc){ float s=1.f+sc[c]; a*=s; b=b*s+sh[c]; } A[c]=a; B[c]=b; }
}
template<bool ACT,int CC> static void fwd_rows_(const u16*__restrict x,u16*__restrict y,const float*__restrict A,const float*__restrict B,int L,int C0){ const int C=CC?CC:C0;
  for(int i=0;i<L;i++){ const u16*__restrict xp=x+(size_t)i*C; u16*__restrict yp=y+(size_t)i*C;
    for(int c=0;c<C;c++){ float z=b2f(xp[c])*A[c]+B[c]; if(ACT) z=z*sig(z); yp[c]=f2b(z);} }
}
template<int CC> static void sums_(const u16*__restrict x,float*__restrict s1,float*__restrict s2,int L,int C0){ const int C=CC?CC:C0;
  for(int c=0;c<C;c++) s1[c]=s2[c]=0.f;
  float a1[CC?CC:1],a2[CC?CC:1]; if(CC) for(int c=0;c<C;c++) a1[c]=a2[c]=0.f;
  float*__restrict p1=CC?a1:s1,*__restrict p2=CC?a2:s2;
  for(int i=0;i<L;i++){ const u16*__restrict xp=x+(size_t)i*C; for(int c=0;c<C;c++){ float v=b2f(xp[c]); p1[c]+=v; p2[c]+=v*v; } }
  if(CC) for(int c=0;c<C;c++){ s1[c]=a1[c]; s2[c]=a2[c]; }
}
template<bool ACT,int CC> static void bwd1_(const u16*__restrict x,const u16*__restrict dy,float*__restrict dz,const float*__restrict A,const float*__restrict B,const float*__restrict mu,const float*__restrict rs,float*__restrict S1,float*__restrict S2,int L,int C0){ const int C=CC?CC:C0;
  for(int c=0;c<C;c++) S1[c]=S2[c]=0.f;
  float a1[CC?CC:1],a2[CC?CC:1]; if(CC) for(int c=0;c<C;c++) a1[c]=a2[c]=0.f;
  float*__restrict p1=CC?a1:S1,*__restrict p2=CC?a2:S2;
  for(int i=0;i<L;i++){ const u16*__restrict xp=x+(size_t)i*C; const u16*__restrict dp=dy+(size_t)i*C; float*__restrict zp=dz+(size_t)i*C;
    for(int c=0;c<C;c++){ float v=b2f(xp[c]),d=b2f(dp[c]); if(ACT){ float z=v*A[c]+B[c],s=sig(z); d=d*s*(1.f+z*(1.f-s)); } zp[c]=d; p1[c]+=d; p2[c]+=d*v; } }
  if(CC) for(int c=0;c<C;c++){ S1[c]=a1[c]; S2[c]=a2[c]; }
}
template<int CC> static void bwd2_(const u16*__restrict x,const float*__restrict dz,u16*__restrict dx,const float*__restrict P,const float*__restrict Q,const float*__restrict R,int L,int C0){ const int C=CC?CC:C0;
  for(int i=0;i<L;i++){ const u16*__restrict xp=x+(size_t)i*C; const float*__restrict zp=dz+(size_t)i*C; u16*__restrict op=dx+(size_t)i*C;
    for(int c=0;c<C;c++) op[c]=f2b(zp[c]*P[c]+b2f(xp[c])*Q[c]+R[c]); }
}

#define SW(X) switch(C){case 16:X(16);break;case 32:X(32);break;case 48:X(48);break;case 64:X(64);break;case 96:X(96);break;case 128:X(128);break;case 160:X(160);break;case 192:X(192);break;case 256:X(256);break;case 320:X(320);break;default:X(0);}
template<bool ACT> static void fwd_rows(const u16*x,u16*y,const float*A,const float*B,int L,int C){
#define X(K) fwd_rows_<ACT,K>(x,y,A,B,L,C)
SW(X)
#undef X
}
static void sums(const u16*x,float*s1,float*s2,int L,int C){
#define X(K) sums_<K>(x,s1,s2,L,C)
SW(X)
#undef X
}
template<bool ACT> static void bwd1(const u16*x,const u16*dy,float*dz,const float*A,const float*B,const float*mu,const float*rs,float*S1,float*S2,int L,int C){
#define X(K) bwd1_<ACT,K>(x,dy,dz,A,B,mu,rs,S1,S2,L,C)
SW(X)
#undef X
}
static void bwd2(const u16*x,const float*dz,u16*dx,const float*P,const float*Q,const float*R,int L,int C){
#define X(K) bwd2_<K>(x,dz,dx,P,Q,R,L,C)
SW(X)
#undef X
}
std::vector<Tensor> forward(Tensor x,Tensor ga,Tensor be,c10::optional<Tensor> sc,c10::optional<Tensor> sh,int64_t G,double eps,bool act){
  int N=x.size(0),C=x.size(1),L=x.size(2)*x.size(3),cg=C/G;
  TORCH_CHECK(x.is_contiguous(at::MemoryFormat::ChannelsLast)&&x.scalar_type()==at::kBFloat16);
  Tensor y=torch::empty_like(x),mean=torch::empty({N,(int)G}),rstd=torch::empty({N,(int)G});
  const u16*xp=(const u16*)x.data_ptr(); u16*yp=(u16*)y.data_ptr();
  std::vector<float> s1(C),s2(C),A(C),B(C);
  for(int n=0;n<N;n++){ const u16*xn=xp+(size_t)n*L*C; sums(xn,s1.data(),s2.data(),L,C);
    float*mp=mean.data_ptr<float>()+n*G,*rp=rstd.data_ptr<float>()+n*G;
    for(int g=0;g<G;g++){ double a=0,b=0; for(int c=g*cg;c<(g+1)*cg;c++){a+=s1[c];b+=s2[c];} double M=(double)cg*L; a/=M; b=b/M-a*a; if(b<0)b=0; mp[g]=a; rp[g]=1./std::sqrt(b+eps); }
    affine_coeffs(C,G,mp,rp,ga.data_ptr<float>(),be.data_ptr<float>(),sc?sc->data_ptr<float>()+n*C:nullptr,sh?sh->data_ptr<float>()+n*C:nullptr,A.data(),B.data());
    if(act) fwd_rows<true>(xn,yp+(size_t)n*L*C,A.data(),B.data(),L,C); else fwd_rows<false>(xn,yp+(size_t)n*L*C,A.data(),B.data(),L,C);
  }
  return {y,mean,rstd};
}
std::vector<Tensor> backward(Tensor x,Tensor dy,Tensor ga,Tensor be,c10::optional<Tensor> sc,c10::optional<Tensor> sh,Tensor mean,Tensor rstd,bool act){
  int N=x.size(0),C=x.size(1),L=x.size(2)*x.size(3),G=mean.size(1),cg=C/G;
  dy=dy.contiguous(at::MemoryFormat::ChannelsLast);
  TORCH_CHECK(dy.scalar_type()==at::kBFloat16);
  Tensor dx=torch::empty_like(x),dga=torch::zeros({C}),dbe=torch::zeros({C}),dsc,dsh;
  if(sc){ dsc=torch::empty({N,C}); dsh=torch::empty({N,C}); }
  std::vector<float> A(C),B(C),S1(C),S2(C),P(C),Q(C),R(C),mu(C),rs(C); std::vector<float> dz((size_t)L*C);
  float*dg=dga.data_ptr<float>(),*db=dbe.data_ptr<float>(); const float*gp=ga.data_ptr<float>(),*bp=be.data_ptr<float>();
  for(int n=0;n<N;n++){ size_t o=(size_t)n*L*C; const u16*xn=(const u16*)x.data_ptr()+o,*dn=(const u16*)dy.data_ptr()+o; u16*on=(u16*)dx.data_ptr()+o;
    const float*mp=mean.data_ptr<float>()+n*G,*rp=rstd.data_ptr<float>()+n*G;
    const float*sp=sc?sc->data_ptr<float>()+n*C:nullptr,*hp=sh?sh->data_ptr<float>()+n*C:nullptr;
    affine_coeffs(C,G,mp,rp,gp,bp,sp,hp,A.data(),B.data());
    if(act) bwd1<true>(xn,dn,dz.data(),A.data(),B.data(),mu.data(),rs.data(),S1.data(),S2.data(),L,C); else bwd1<false>(xn,dn,dz.data(),A.data(),B.data(),mu.data(),rs.data(),S1.data(),S2.data(),L,C);
    for(int g=0;g<G;g++){ double m1=0,m2=0,M=(double)cg*L; float m=mp[g],r=rp[g];
      for(int c=g*cg;c<(g+1)*cg;c++){ float s=sp?1.f+sp[c]:1.f; float k=s*gp[c]; float sx=r*(S2[c]-m*S1[c]); // sum dz*xhat
        dg[c]+=s*sx; db[c]+=s*S1[c]; if(sp){ dsc.data_ptr<float>()[n*C+c]=gp[c]*sx+bp[c]*S1[c]; dsh.data_ptr<float>()[n*C+c]=S1[c]; }
        m1+=k*S1[c]; m2+=k*sx; }
      m1/=M; m2/=M;
      for(int c=g*cg;c<(g+1)*cg;c++){ float k=(sp?1.f+sp[c]:1.f)*gp[c]; P[c]=r*k; Q[c]=-r*r*(float)m2; R[c]=-r*(float)m1+r*r*m*(float)m2; } }
    bwd2(xn,dz.data(),on,P.data(),Q.data(),R.data(),L,C);
  }
  if(!sc){ dsc=torch::Tensor(); dsh=torch::Tensor(); }
  return {dx,dga,dbe,dsc,dsh};
}
PYBIND11_MODULE(TORCH_EXTENSION_NAME,m){ m.def("forward",&forward); m.def("backward",&backward); }
